// The labelling page: keys and buttons to answers. The server decides which patch comes next and keeps the answers.

import { $, ask, element, notice, switchTheme } from "../shared/page.js";
import { Outbox } from "./outbox.js";

const AHEAD = 24; // patches that are asked for in advance
const PICTURES = 16; // of which so many are loaded in advance
const PAGE = 12; // patches of the grid
const SLOW = 5000; // ms between looks at the progress, which others change, too
const SOON = 400; // ms from an answer of one's own to a look
const AWAY = 120; // seconds after which nobody is taken to be looking

const state = {
  about: null, annotator: "", queue: [], pictures: new Map(), outbox: null, sent: [],
  grid: false, focus: 0, context: false, ended: false, since: 0, asking: null, visit: 0,
};

function hint(text) {
  $("hint").textContent = text;
}

const keep = (name, value) => localStorage.setItem(`patch2tissue:${name}`, value);
const kept = (name) => localStorage.getItem(`patch2tissue:${name}`);

// --- patches ----------------------------------------------------------------------------------------------------------

async function fill() {
  if (state.asking || state.ended || state.queue.length >= AHEAD / 2) return state.asking;
  const visit = state.visit;
  const waiting = [...new Set([...state.queue.map((patch) => patch.index), ...(state.outbox?.waiting ?? []).map((a) => a.patch)])];
  const query = new URLSearchParams({
    annotator: state.annotator, count: String(AHEAD - state.queue.length), waiting: waiting.join(","),
  });
  state.asking = ask(`api/next?${query}`)
    .then(({ patches }) => {
      if (visit !== state.visit) return;
      const known = new Set(state.queue.map((patch) => patch.index));
      const fresh = patches.filter((patch) => !known.has(patch.index));
      // flagged ones come next, but not in place of what is being looked at
      const looked = visible().length;
      state.queue.push(...fresh.filter((patch) => patch.chosen !== "flagged"));
      state.queue.splice(looked, 0, ...fresh.filter((patch) => patch.chosen === "flagged"));
      state.ended = patches.length === 0;
      if (patches.some((patch) => patch.context)) $("context").hidden = false;
      load();
      if (!$("stage").querySelector("figure")) show();
    })
    .catch((error) => {
      if (error.status === 403) notice(error.message);
      else setTimeout(fill, 1000);
    })
    .finally(() => { state.asking = null; });
  return state.asking;
}

// Have the next pictures decoded before it is their turn.
function load() {
  const wanted = state.queue.slice(0, Math.max(PICTURES, PAGE));
  for (const patch of wanted) {
    if (state.pictures.has(patch.index)) continue;
    const picture = new Image();
    picture.alt = `patch ${patch.name}`;
    picture.draggable = false;
    picture.src = `patches/${patch.index}/picture`;
    picture.onerror = () => {
      patch.broken = true;
      if (visible().includes(patch)) show();
    };
    picture.decode?.().catch(() => {});
    state.pictures.set(patch.index, picture);
  }
  const needed = new Set(wanted.map((patch) => patch.index));
  for (const index of state.pictures.keys()) if (!needed.has(index)) state.pictures.delete(index);
}

const visible = () => state.queue.slice(0, state.grid ? PAGE : 1);
const current = () => visible()[state.grid ? state.focus : 0];

function words(patch) {
  if (patch.kind) return patch.kind === "discard" ? "discarded" : patch.kind;
  return state.about.tissues.filter((_, k) => patch.labels[k]).map((tissue) => tissue.name).join(", ");
}

// --- drawing ----------------------------------------------------------------------------------------------------------

function show() {
  const stage = $("stage");
  const patches = visible();
  state.focus = Math.max(0, Math.min(state.focus, patches.length - 1));
  const many = state.grid && patches.length > 0;
  stage.className = many ? "many" : "one";
  stage.setAttribute("role", many ? "listbox" : "group");
  if (patches.length === 0) {
    const text = state.ended ? "You have answered about every patch. Thank you!" : "Fetching patches …";
    stage.replaceChildren(element("p", { className: "done", id: "done", textContent: text }));
  } else if (state.grid) {
    stage.replaceChildren(...patches.map(cell));
  } else {
    stage.replaceChildren(single(patches[0]));
  }
  showTissues();
}

function pictureOf(patch) {
  return patch.broken ? element("p", { textContent: `${patch.name}: cannot be read as an image. Discard it.` }) : state.pictures.get(patch.index);
}

function single(patch) {
  const figure = element("figure", {}, pictureOf(patch));
  if (patch.flag && !patch.broken) figure.append(ring(patch));
  figure.dataset.index = patch.index;
  if (state.context && patch.context) {
    const around = element("img", { src: `patches/${patch.index}/context`, alt: `patch ${patch.name} and what is around it` });
    figure.replaceChildren(around, element("div", { className: "frame" }));
  }
  return figure;
}

// Where somebody clicked who found a tissue map wrong.
function ring(patch) {
  const made = element("div", { className: "ring", title: "a tissue map is said to be wrong here" });
  // the picture lies in the middle of a square
  const { naturalWidth: width, naturalHeight: height } = state.pictures.get(patch.index);
  const longer = Math.max(width, height) || 1;
  const [x, y] = [[patch.flag[0], width], [patch.flag[1], height]].map(([share, side]) => 50 + 100 * (share - 0.5) * (side / longer || 1));
  made.style.left = `${x}%`;
  made.style.top = `${y}%`;
  return made;
}

function cell(patch, place) {
  const figure = element("figure", { tabIndex: place === state.focus ? 0 : -1 }, pictureOf(patch), element("figcaption", { textContent: words(patch) }));
  figure.className = `patch${place === state.focus ? " current" : ""}${patch.kind ? " put-aside" : ""}`;
  figure.dataset.index = patch.index;
  figure.setAttribute("role", "option");
  figure.setAttribute("aria-selected", String(place === state.focus));
  figure.addEventListener("click", () => { state.focus = place; show(); });
  return figure;
}

function showTissues() {
  const patch = current();
  [...$("tissues").children].forEach((button, k) => {
    button.disabled = !patch;
    button.setAttribute("aria-pressed", String(Boolean(patch?.labels[k])));
    const share = patch?.suggested?.[k];
    button.querySelector(".share").textContent = share === undefined ? "" : `${Math.round(100 * share)}%`;
  });
  for (const id of ["next", "unsure", "discard"]) $(id).disabled = !patch;
  const why = {
    model: "The model is unsure of this one.", random: "Drawn at random, to judge the model by.",
    flagged: "Somebody found a tissue map wrong here, at the ring.",
  };
  $("why").textContent = why[patch?.chosen] ?? "";
}

function makeTissues() {
  $("tissues").replaceChildren(...state.about.tissues.map((tissue, k) => {
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = `rgb(${tissue.color.join(",")})`;
    const button = element("button", { type: "button" },
      element("span", { className: "tick", ariaHidden: "true" }), swatch, tissue.name, element("span", { className: "share" }));
    if (k < 9) {
      button.append(element("kbd", { textContent: k + 1 }));
      button.setAttribute("aria-keyshortcuts", String(k + 1));
    }
    onPress(button, () => tick(k));
    return button;
  }));
}

const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(100 * share)}%`);

function row(...cells) {
  return element("tr", {}, ...cells.map((text, place) => element("td", { textContent: text, className: place ? "number" : "" })));
}

function showProgress(found) {
  $("bar").value = found.answered / found.patches;
  $("count").textContent = `${found.answered.toLocaleString()} of ${found.patches.toLocaleString()}`;
  const speed = found.seconds_per_patch;
  const facts = {
    labelled: found.labelled, unsure: found.unsure, discarded: found.discard,
    speed: speed ? `${Math.round(3600 / speed).toLocaleString()} / h` : "–",
  };
  if (found.suggested !== null) facts["seen by the model"] = percent(found.suggested / found.patches);
  $("facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) =>
    [element("dt", { textContent: name }), element("dd", { textContent: value })]));
  $("shares").tBodies[0].replaceChildren(...Object.entries(found.share).map(([name, share]) => row(name, percent(share))));
  $("agreement").hidden = found.agreement.length === 0;
  $("agreement").tBodies[0].replaceChildren(...found.agreement.map((one) =>
    row(one.annotators.join(", "), one.tissue, one.patches, percent(one.same), one.kappa === null ? "–" : one.kappa.toFixed(2))));
  $("model").hidden = !found.model;
  if (found.model) {
    $("model").caption.textContent = `The model was right on ${found.model.patches} random patches`;
    $("model").tBodies[0].replaceChildren(...Object.entries(found.model.right).map(([name, share]) => row(name, percent(share))));
  }
}

let looking = null;
async function look() {
  looking ??= (async () => {
    try {
      showProgress(await ask(`api/progress?${new URLSearchParams({ annotator: state.annotator })}`));
    } catch { /* the next look may succeed */ }
    looking = null;
  })();
  return looking;
}

// Soon after an answer is saved, but not after each one of somebody who is fast.
let soon = null;
function lookSoon() {
  soon ??= setTimeout(() => { soon = null; look(); }, SOON);
}

// --- answering --------------------------------------------------------------------------------------------------------

function tick(k) {
  const patch = current();
  if (!patch) return;
  patch.labels[k] = patch.labels[k] ? 0 : 1;
  patch.kind = null;
  hint("");
  const name = state.about.tissues[k].name;
  $("spoken").textContent = `${name} ${patch.labels[k] ? "ticked" : "not ticked"}`;
  state.grid ? show() : showTissues();
}

function answerOf(patch, kind, seconds) {
  return {
    key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`,
    patch: patch.index, annotator: state.annotator, kind, labels: kind === "labelled" ? patch.labels : null,
    seconds, chosen: patch.chosen, suggested: patch.suggested,
  };
}

function save(patches) {
  const seconds = (performance.now() - state.since) / 1000 / patches.length;
  const answers = patches.map((patch) => answerOf(patch, patch.kind ?? "labelled", seconds < AWAY ? seconds : null));
  state.queue.splice(0, patches.length);
  state.focus = 0;
  state.sent.push(...answers.map((answer, place) => ({ key: answer.key, patch: patches[place] })));
  state.since = performance.now();
  hint("");
  show();
  $("spoken").textContent = visible().length ? `Next: patch ${current().name}` : "";
  load();
  state.outbox.put(answers);
  fill();
}

function next() {
  const patches = visible();
  const open = patches.findIndex((patch) => !patch.kind && !patch.labels.includes(1));
  if (open >= 0) {
    state.focus = open;
    if (state.grid) show();
    hint("Tick at least one tissue, or press X to discard it, Q if you are unsure.");
    return;
  }
  if (patches.length) save(patches);
}

function putAside(kind) {
  const patch = current();
  if (!patch) return;
  if (state.grid) {
    patch.kind = patch.kind === kind ? null : kind;
    show();
  } else {
    patch.kind = kind;
    save([patch]);
  }
}

let undoing = Promise.resolve();
function undo() {
  undoing = undoing.then(undoLast); // one after the other, however fast the key is pressed
}

async function undoLast() {
  try {
    const last = state.sent.at(-1);
    if (last && state.outbox.take(last.key)) {
      bring({ ...last.patch, kind: null });
    } else {
      if (state.outbox.failing) hint("It is taken back as soon as the server answers.");
      await state.outbox.flush();
      const { patch } = await ask("api/undo", { annotator: state.annotator });
      if (patch) bring({ ...patch, kind: null });
      else hint("There is nothing to undo.");
    }
    state.sent.pop();
    look();
  } catch (error) {
    hint(`Could not be undone: ${error.message}`);
  }
}

function bring(patch) {
  state.queue = [patch, ...state.queue.filter((other) => other.index !== patch.index)];
  state.focus = 0;
  state.ended = false;
  state.since = performance.now();
  load();
  show();
  hint("Taken back: answer again.");
  $("spoken").textContent = `Taken back: patch ${patch.name}`;
}

// --- keys and buttons -------------------------------------------------------------------------------------------------

// A button that was clicked lets go of the focus, so that Space goes on to the next patch; one reached by Tab keeps it.
function onPress(button, act) {
  button.addEventListener("click", (event) => {
    if (event.detail > 0) button.blur();
    act();
  });
}

function toggle(name) {
  state[name] = !state[name];
  $(name).setAttribute("aria-pressed", String(state[name]));
  keep(name, state[name] ? "1" : "");
  show();
}

function move(by) {
  if (!state.grid) return;
  state.focus = Math.max(0, Math.min(visible().length - 1, state.focus + by));
  show();
  $("stage").children[state.focus]?.focus();
}

function columns() {
  return getComputedStyle($("stage")).gridTemplateColumns.split(" ").length;
}

const KEYS = {
  " ": next, u: undo, q: () => putAside("unsure"), x: () => putAside("discard"), g: () => toggle("grid"),
  c: () => { if (!$("context").hidden) toggle("context"); },
  ArrowRight: () => move(1), ArrowLeft: () => move(-1),
  ArrowDown: () => move(columns()), ArrowUp: () => move(-columns()),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("names").open || event.target.matches("input")) return;
  // Space on a button that has the focus presses that button, as everywhere
  if (event.key === " " && event.target.matches("button")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const tissue = Number(key) - 1;
  if (/^[1-9]$/.test(key) && tissue < state.about.tissues.length) {
    if (!event.repeat) tick(tissue);
  } else if (KEYS[key] && (state.grid || !key.startsWith("Arrow"))) {
    if (!event.repeat || key.startsWith("Arrow")) KEYS[key]();
  } else {
    return;
  }
  event.preventDefault();
});

function saving() {
  const count = state.outbox?.size ?? 0;
  const late = Boolean(state.outbox?.failing && count);
  $("saving").classList.toggle("late", late);
  $("saving").textContent = late ? `${count} not saved yet, trying again` : count ? "saving …" : "all saved";
  if (state.outbox && !count && state.annotator) lookSoon();
  if (state.outbox?.refused) notice(`An answer was refused: ${state.outbox.refused}`);
}

window.addEventListener("beforeunload", (event) => {
  if (state.outbox?.size) event.preventDefault();
});

// --- start ------------------------------------------------------------------------------------------------------------

async function send(answer) {
  try {
    return await ask("api/answers", answer);
  } catch (error) {
    // 403: the server was started anew and has another token; the answers wait for its new page
    error.final = error.status >= 400 && error.status < 500 && error.status !== 403;
    if (error.status === 403) notice(`${error.message} Answers that are not saved yet are kept in this browser for it.`);
    throw error;
  }
}

async function begin(name) {
  state.annotator = name;
  state.visit += 1;
  Object.assign(state, { queue: [], sent: [], ended: false, focus: 0 });
  keep("annotator", name);
  $("who").textContent = name;
  state.asking = null;
  $("context").hidden = true;
  show();
  await fill();
  state.since = performance.now();
  show();
  look();
  $("main").focus();
}

function askWho() {
  $("known").replaceChildren(...state.about.annotators.map((value) => element("option", { value })));
  $("name").value = state.annotator;
  $("names").showModal();
}

$("names").addEventListener("close", () => {
  const name = $("name").value.trim();
  if (name && name !== state.annotator) begin(name);
  else if (!state.annotator) askWho();
});

onPress($("next"), next);
onPress($("undo"), undo);
onPress($("unsure"), () => putAside("unsure"));
onPress($("discard"), () => putAside("discard"));
onPress($("grid"), () => toggle("grid"));
onPress($("context"), () => toggle("context"));
onPress($("theme"), () => keep("theme", switchTheme()));
onPress($("who"), askWho);
if (kept("theme")) document.documentElement.dataset.theme = kept("theme");
for (const name of ["grid", "context"]) {
  state[name] = kept(name) === "1";
  $(name).setAttribute("aria-pressed", String(state[name]));
}

try {
  state.about = await ask("api/about");
  $("folder").textContent = `Label ${state.about.folder}`;
  document.title = `Label ${state.about.folder}`;
  makeTissues();
  // one for all annotators: what one could not send, the next one's page does
  state.outbox = new Outbox(`patch2tissue:outbox:${state.about.id}`, send, saving);
  const named = new URLSearchParams(location.search).get("annotator") || kept("annotator");
  if (named) await begin(named);
  else askWho();
  setInterval(() => {
    if (!state.annotator || document.hidden) return;
    look();
    if (state.ended && state.queue.length === 0) {
      // somebody may have flagged one since
      state.ended = false;
      fill();
    }
  }, SLOW);
} catch (error) {
  notice(`The page could not start: ${error.message}`);
}
