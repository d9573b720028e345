// The viewer: slides by deep zoom (OpenSeadragon), with tissue maps on top. What is seen is in the address after #.

import { $, ask, element, notice, switchTheme } from "../shared/page.js";

const state = { scenes: [], tile: 256, number: 0, scene: null, map: 0, on: true, opacity: 0.5, hidden: new Set(), beside: false };
let panes = [];

// --- one picture ------------------------------------------------------------------------------------------------------

class Pane {
  constructor(map) {
    this.map = map;
    this.layer = null;
    this.made = 0;
    this.ready = false;
    this.canvas = element("div", { className: "canvas" });
    this.scale = element("div", { className: "scale" }, element("span"), element("i"));
    this.from = element("div", { className: "from", hidden: true });
    this.place = element("div", { className: "pane" }, this.canvas, this.from, this.scale);
    $("panes").append(this.place);
    this.viewer = OpenSeadragon({
      element: this.canvas, drawer: "canvas", showNavigationControl: false, animationTime: 0.4, maxZoomPixelRatio: 8,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true }, imageLoaderLimit: 8,
      tileSources: source(state.scene, `scenes/${state.number}/slide`, ""),
    });
    this.viewer.addHandler("open-failed", () => notice("The slide could not be opened."));
    this.viewer.addHandler("open", () => {
      this.drawMap();
      if (this === panes[0]) restore();
      this.ready = true;
      // whichever was ready first shows the others where to look
      const leader = panes.find((pane) => pane !== this && pane.ready);
      if (leader) follow(this === panes[0] ? this : leader);
      this.drawScale();
    });
    this.viewer.addHandler("update-viewport", () => this.drawScale());
    this.viewer.addHandler("viewport-change", () => follow(this));
    this.viewer.addHandler("animation-finish", () => { if (this === panes[0]) remember(); });
    this.viewer.addHandler("canvas-key", (event) => { event.preventDefaultAction = true; });
  }

  // Put the map with the tissues that are shown on the slide; the one before goes when the new one is there.
  drawMap() {
    const about = state.scene.maps[this.map];
    const before = this.layer;
    this.layer = null;
    const turn = ++this.made;
    const remove = () => { if (before) this.viewer.world.removeItem(before); };
    this.from.hidden = panes.length < 2 || !about;
    this.from.textContent = about?.from ?? "";
    if (!about || !state.on) return remove();
    const shown = about.tissues.map((tissue) => (state.hidden.has(tissue.name) ? "0" : "1")).join("");
    this.viewer.addTiledImage({
      tileSource: source(about, `scenes/${state.number}/maps/${this.map}`, `?shown=${shown}`),
      x: 0, y: 0, width: (about.width * about.scale[0]) / state.scene.width, opacity: state.opacity,
      success: ({ item }) => {
        if (turn !== this.made) return this.viewer.world.removeItem(item);
        this.layer = item;
        item.setOpacity(state.opacity);
        remove();
      },
      error: ({ message }) => notice(`The map could not be drawn: ${message}`),
    });
  }

  drawScale() {
    const um = state.scene.um_per_pixel?.[0];
    this.scale.hidden = !um;
    const image = this.viewer.world.getItemAt(0);
    if (!um || !image) return;
    const perPixel = um / image.viewportToImageZoom(this.viewer.viewport.getZoom(true)); // µm per pixel of the screen
    const longest = 160 * perPixel;
    const power = 10 ** Math.floor(Math.log10(longest));
    const length = power * (longest >= 5 * power ? 5 : longest >= 2 * power ? 2 : 1);
    this.scale.firstChild.textContent = length >= 1000 ? `${length / 1000} mm` : `${Number(length.toPrecision(3))} µm`;
    this.scale.lastChild.style.width = `${length / perPixel}px`;
    this.scale.dataset.um = length;
  }

  close() {
    this.viewer.destroy();
    this.place.remove();
  }
}

function source(about, path, query) {
  return {
    width: about.width, height: about.height, tileSize: state.tile, tileOverlap: 0, minLevel: 0, maxLevel: about.deepest,
    getTileUrl: (level, x, y) => `${path}/${level}/${x}_${y}${query}`,
  };
}

let following = false;
function follow(leader) {
  if (following || !leader.ready) return;
  following = true;
  for (const pane of panes) {
    if (pane === leader || !pane.ready) continue;
    pane.viewer.viewport.zoomTo(leader.viewer.viewport.getZoom(), undefined, true);
    pane.viewer.viewport.panTo(leader.viewer.viewport.getCenter(), true);
  }
  following = false;
}

// --- where ------------------------------------------------------------------------------------------------------------

// Middle in pixels of the slide, and pixels of the screen per pixel of the slide.
function position() {
  const { viewport, world } = panes[0].viewer;
  const image = world.getItemAt(0);
  const middle = image.viewportToImageCoordinates(viewport.getCenter());
  return { x: Math.round(middle.x), y: Math.round(middle.y), zoom: Number(image.viewportToImageZoom(viewport.getZoom()).toPrecision(4)) };
}

function remember() {
  if (!panes[0]?.viewer.isOpen()) return;
  const { x, y, zoom } = position();
  const where = new URLSearchParams({ slide: state.scene.name, x, y, zoom, opacity: Math.round(100 * state.opacity) });
  if (state.map) where.set("map", state.map);
  if (!state.on) where.set("off", "1");
  if (state.beside) where.set("beside", "1");
  if (state.hidden.size) where.set("hidden", [...state.hidden].join("|"));
  history.replaceState(null, "", `#${where}`);
  const um = state.scene.um_per_pixel;
  $("place").textContent = `x ${x.toLocaleString()}, y ${y.toLocaleString()} px` + (um ? ` (${((x * um[0]) / 1000).toFixed(2)}, ${((y * um[1]) / 1000).toFixed(2)} mm)` : "");
}

let wanted = new URLSearchParams(location.hash.slice(1));
function restore() {
  const [x, y, zoom] = ["x", "y", "zoom"].map((name) => Number.parseFloat(wanted.get(name)));
  wanted = new URLSearchParams();
  if ([x, y, zoom].every(Number.isFinite) && zoom > 0) {
    const { viewport, world } = panes[0].viewer;
    const image = world.getItemAt(0);
    viewport.zoomTo(image.imageToViewportZoom(zoom), undefined, true);
    viewport.panTo(image.imageToViewportCoordinates(x, y), true);
  }
  remember();
}

// --- panel ------------------------------------------------------------------------------------------------------------

function showPanel() {
  const about = state.scene.maps[state.map];
  $("layer").hidden = !about;
  $("without").hidden = Boolean(about);
  $("beside").hidden = state.scene.maps.length < 2;
  $("beside").setAttribute("aria-pressed", String(state.beside));
  const several = state.scene.maps.length > 1;
  $("which").hidden = $("which-label").hidden = !several;
  $("which").replaceChildren(...state.scene.maps.map((map, k) => element("option", { value: k, textContent: map.from, selected: k === state.map })));
  $("map").checked = state.on;
  $("opacity").value = 100 * state.opacity;
  $("opacity-told").textContent = `${Math.round(100 * state.opacity)}%`;
  if (!about) return;
  $("tissues").replaceChildren(...about.tissues.map((tissue, k) => {
    const box = element("input", { type: "checkbox", checked: !state.hidden.has(tissue.name) });
    box.addEventListener("change", () => toggle(tissue.name));
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = `rgb(${tissue.colour.join(",")})`;
    const area = tissue.area_mm2 === undefined ? "" : `${tissue.area_mm2.toFixed(2)} mm² · ${Math.round(100 * tissue.share)}%`;
    return element("label", {}, box, swatch, tissue.name, ...(k < 9 ? [element("kbd", { textContent: k + 1 })] : []), element("span", { className: "area", textContent: area }));
  }));
  const total = about.tissues.reduce((sum, tissue) => sum + (tissue.area_mm2 ?? 0), 0);
  $("total").textContent = total ? `${total.toFixed(2)} mm² of tissue` : "";
}

function redraw() {
  showPanel();
  for (const pane of panes) pane.drawMap();
  remember();
}

function toggle(name) {
  state.hidden.has(name) ? state.hidden.delete(name) : state.hidden.add(name);
  redraw();
}

function setOpacity(value) {
  state.opacity = Math.max(0, Math.min(1, value));
  $("opacity-told").textContent = `${Math.round(100 * state.opacity)}%`;
  for (const pane of panes) pane.layer?.setOpacity(state.opacity);
}

// --- slides -----------------------------------------------------------------------------------------------------------

function makePanes() {
  for (const pane of panes) pane.close();
  panes = [];
  const maps = state.beside ? state.scene.maps.map((_, k) => k).slice(0, 2) : [state.map];
  for (const map of maps) panes.push(new Pane(map));
}

async function open(number) {
  try {
    const scene = await ask(`api/scenes/${number}`);
    Object.assign(state, { number, scene, map: Math.min(Number(wanted.get("map") ?? 0) || 0, Math.max(0, scene.maps.length - 1)) });
    state.beside = wanted.get("beside") === "1" && scene.maps.length > 1;
    notice("");
  } catch (error) {
    notice(error.message);
    return;
  }
  document.title = `${state.scene.name} – tissue maps`;
  $("scene").value = number;
  showPanel();
  makePanes();
}

function setBeside() {
  if ($("beside").hidden) return;
  wanted = new URLSearchParams(location.hash.slice(1));
  state.beside = !state.beside;
  showPanel();
  makePanes();
}

const zoom = (factor) => { panes[0].viewer.viewport.zoomBy(factor); panes[0].viewer.viewport.applyConstraints(); };
const home = () => panes[0].viewer.viewport.goHome();
const setMap = () => { state.on = !state.on; redraw(); };
const pan = (x, y) => {
  const { viewport } = panes[0].viewer;
  const bounds = viewport.getBounds();
  viewport.panBy(new OpenSeadragon.Point((x * bounds.width) / 5, (y * bounds.height) / 5));
  viewport.applyConstraints();
};

const KEYS = {
  "+": () => zoom(1.6), "=": () => zoom(1.6), "-": () => zoom(1 / 1.6), 0: home, m: setMap, s: setBeside,
  ArrowLeft: () => pan(-1, 0), ArrowRight: () => pan(1, 0), ArrowUp: () => pan(0, -1), ArrowDown: () => pan(0, 1),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !panes.length) return;
  // arrows move the slider and the list that have the focus
  if (event.target.matches("select, input[type=range]") && event.key.startsWith("Arrow")) return;
  if (event.target.matches("select")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const tissue = state.scene?.maps[state.map]?.tissues[Number(key) - 1];
  if (/^[1-9]$/.test(key) && tissue) toggle(tissue.name);
  else if (KEYS[key]) KEYS[key]();
  else return;
  event.preventDefault();
});

$("in").addEventListener("click", KEYS["+"]);
$("out").addEventListener("click", KEYS["-"]);
$("home").addEventListener("click", home);
$("beside").addEventListener("click", setBeside);
$("map").addEventListener("change", setMap);
$("opacity").addEventListener("input", () => setOpacity($("opacity").value / 100));
$("opacity").addEventListener("change", remember);
$("which").addEventListener("change", () => {
  state.map = Number($("which").value);
  if (!state.beside) panes[0].map = state.map;
  redraw();
});
$("scene").addEventListener("change", () => { state.hidden.clear(); open(Number($("scene").value)); });
$("link").addEventListener("click", async () => {
  remember();
  try {
    await navigator.clipboard.writeText(location.href);
    $("place").textContent = "The link is copied. It works as long as this server runs.";
  } catch {
    $("place").textContent = location.href;
  }
});
$("theme").addEventListener("click", switchTheme);

try {
  const { scenes, tile } = await ask("api/scenes");
  Object.assign(state, { scenes, tile });
  $("scene").replaceChildren(...scenes.map((scene, k) => element("option", { value: k, textContent: scene.name })));
  state.on = wanted.get("off") !== "1";
  state.hidden = new Set((wanted.get("hidden") ?? "").split("|").filter(Boolean));
  const opacity = Number.parseFloat(wanted.get("opacity"));
  if (Number.isFinite(opacity)) state.opacity = Math.max(0, Math.min(1, opacity / 100));
  await open(Math.max(0, scenes.findIndex((scene) => scene.name === wanted.get("slide"))));
} catch (error) {
  notice(`The page could not start: ${error.message}`);
}
