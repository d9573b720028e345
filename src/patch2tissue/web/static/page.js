// What the scripts of all pages share.

export const $ = (id) => document.getElementById(id);

// Ask the server, with a JSON object if there is something to send; what it refuses is an error with its status.
export async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  const answer = await fetch(path, options);
  const found = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.error ?? answer.statusText), { status: answer.status });
  return found;
}

export function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

export function element(name, properties = {}, ...inside) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...inside);
  return made;
}

// From light to dark or back; returns which it is now.
export function switchTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  return document.documentElement.dataset.theme;
}
