// All slides and patches as small pictures, found by a part of their name.

import { $, element } from "../shared/page.js";

const PAGE = 120;
export const GROUPS = { slide: "slides", training: "training patches", test: "test patches", picture: "images" };

export class Gallery {
  // `choose(number)` is called with what was clicked.
  constructor(scenes, choose) {
    Object.assign(this, { scenes, choose, shown: PAGE, current: 0 });
    const there = Object.keys(GROUPS).filter((group) => scenes.some((scene) => scene.group === group));
    $("group").replaceChildren(...["", ...there].map((group) => element("option", { value: group, textContent: GROUPS[group] ?? "all" })));
    $("group").hidden = there.length < 2;
    $("search").addEventListener("input", () => this.draw(PAGE));
    $("group").addEventListener("change", () => this.draw(PAGE));
    $("more").addEventListener("click", () => this.draw(this.shown + PAGE));
    $("gallery").addEventListener("click", (event) => { if (event.target === $("gallery")) $("gallery").close(); });
  }

  open(current) {
    this.current = current;
    this.draw(PAGE);
    $("gallery").showModal();
    $("search").select();
    $("pictures").querySelector("[aria-current]")?.scrollIntoView({ block: "center" });
  }

  draw(shown) {
    this.shown = shown;
    const part = $("search").value.trim().toLowerCase();
    const found = this.scenes
      .map((scene, number) => ({ ...scene, number }))
      .filter((scene) => (!part || scene.name.toLowerCase().includes(part)) && (!$("group").value || scene.group === $("group").value));
    $("found").textContent = `${found.length.toLocaleString()} of ${this.scenes.length.toLocaleString()}`;
    $("more").hidden = found.length <= shown;
    $("pictures").replaceChildren(...found.slice(0, shown).map((scene) => this.cell(scene)));
  }

  cell(scene) {
    const picture = element("img", { loading: "lazy", alt: "", src: `scenes/${scene.number}/thumbnail` });
    const button = element("button", { type: "button" }, picture, element("span", { textContent: scene.name }));
    if (scene.number === this.current) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => {
      $("gallery").close();
      this.choose(scene.number);
    });
    return button;
  }
}
