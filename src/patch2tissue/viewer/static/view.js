// The viewer: slides and patches with layers of tissue on top. What is seen is in the address after #.

import { $, ask, element, notice, switchTheme } from "../shared/page.js";
import { GROUPS, Gallery } from "./gallery.js";
import { Pane } from "./pane.js";

const KINDS = {
  map: "tissue map", network: "network", pseudo_label: "pseudo label", attention: "attention, accumulated",
  epoch_attention: "attention of the epoch", mask: "mask drawn by hand",
};
const STEP = 700; // ms an epoch is shown while they are played

const state = {
  scenes: [], tile: 256, number: 0, scene: null, layer: 0, other: 0, on: true, opacity: 0.5, hidden: new Set(),
  beside: false, heat: "", epoch: null, marking: false, playing: null, gallery: null,
};
let panes = [];
let wanted = new URLSearchParams(location.hash.slice(1)); // what a link asks for, until it is there

// --- layers -----------------------------------------------------------------------------------------------------------

const key = (layer) => `${layer.from}/${layer.kind}`;
const title = (layer) => `${layer.from}: ${KINDS[layer.kind]}`;
const current = () => state.scene?.layers[state.layer];
const shown = () => (state.beside ? [state.layer, state.other] : [state.layer]).map((k) => state.scene.layers[k]);
const epochs = () => Math.max(0, ...shown().map((layer) => layer?.epochs ?? 0));

// Which layer a link or the scene before means; the first if there is no such one.
function find(name, otherwise = 0) {
  const found = state.scene.layers.findIndex((layer) => key(layer) === name);
  return found >= 0 ? found : otherwise;
}

// What to lay beside a layer: the same of another run, else the next one.
function counterpart() {
  const { layers } = state.scene;
  const same = layers.findIndex((layer) => layer.kind === current()?.kind && layer.from !== current().from);
  return same >= 0 ? same : (state.layer + 1) % Math.max(1, layers.length);
}

function query(layer) {
  const wants = new URLSearchParams();
  const heat = layer.heat ? layer.tissues.findIndex((tissue) => tissue.name === state.heat) : -1;
  if (heat >= 0) wants.set("heat", heat);
  else wants.set("shown", layer.tissues.map((tissue) => (state.hidden.has(tissue.name) ? "0" : "1")).join(""));
  if (layer.epochs && state.epoch !== null) wants.set("epoch", Math.min(state.epoch, layer.epochs - 1));
  return `?${wants}`;
}

function draw() {
  const layers = shown();
  panes.forEach((pane, k) => {
    if (!pane.ready) return;
    const layer = state.on ? layers[k] : undefined;
    pane.setOpacity(state.opacity);
    pane.draw(layer, layer ? query(layer) : "", panes.length > 1 && layers[k] ? title(layers[k]) : "");
  });
}

const on = {
  opened(pane) {
    if (pane === panes[0]) restore();
    // whichever was ready first shows the others where to look
    const leader = panes.find((other) => other !== pane && other.ready);
    if (leader) follow(pane === panes[0] ? pane : leader);
    draw();
    pane.drawMarks(state.scene.wrong?.marks ?? []);
  },
  moved: (pane) => follow(pane),
  rested: (pane) => { if (pane === panes[0]) remember(); },
  clicked: (pane, x, y) => { if (state.marking) mark(x, y); },
  failed: notice,
};

let following = false;
function follow(leader) {
  if (following || !leader.ready) return;
  following = true;
  for (const pane of panes) if (pane !== leader && pane.ready) pane.follow(leader);
  following = false;
}

// --- where ------------------------------------------------------------------------------------------------------------

function remember() {
  if (!panes[0]?.ready) return;
  const { x, y, zoom } = panes[0].position();
  const where = new URLSearchParams({
    slide: state.scene.name, x: Math.round(x), y: Math.round(y), zoom, opacity: Math.round(100 * state.opacity),
  });
  if (state.layer) where.set("layer", key(current()));
  if (!state.on) where.set("off", "1");
  if (state.beside) where.set("beside", key(state.scene.layers[state.other]));
  if (state.hidden.size) where.set("hidden", [...state.hidden].join("|"));
  if (state.heat) where.set("heat", state.heat);
  if (state.epoch !== null) where.set("epoch", state.epoch + 1);
  history.replaceState(null, "", `#${where}`);
  const um = state.scene.um_per_pixel;
  const mm = um && state.scene.group === "slide";
  $("place").textContent = `x ${Math.round(x).toLocaleString()}, y ${Math.round(y).toLocaleString()} px`
    + (mm ? ` (${((x * um[0]) / 1000).toFixed(2)}, ${((y * um[1]) / 1000).toFixed(2)} mm)` : "");
}

function restore() {
  const [x, y, zoom] = ["x", "y", "zoom"].map((name) => Number.parseFloat(wanted.get(name)));
  wanted = new URLSearchParams();
  if ([x, y, zoom].every(Number.isFinite) && zoom > 0) panes[0].goTo(x, y, zoom);
  remember();
}

// --- panel ------------------------------------------------------------------------------------------------------------

const option = (value, text, selected) => element("option", { value, textContent: text, selected });
const press = (button, pressed) => $(button).setAttribute("aria-pressed", String(pressed));

function showPanel() {
  const layer = current();
  const { layers, wrong } = state.scene;
  $("layer").hidden = !layer;
  $("without").hidden = Boolean(layer);
  $("beside").hidden = layers.length < 2;
  press("beside", state.beside);
  $("wrong").disabled = !wrong;
  $("wrong").title = wrong ? "" : "Only of training patches, and of slides whose data folder is known (--label-into)";
  showMarks();
  if (!layer) return;
  const choices = (selected) => layers.map((one, k) => option(k, title(one), k === selected));
  $("which").replaceChildren(...choices(state.layer));
  $("which-label").hidden = layers.length < 2;
  $("other").replaceChildren(...choices(state.other));
  $("other-label").hidden = !state.beside;
  $("map").checked = state.on;
  $("opacity").value = 100 * state.opacity;
  $("opacity-told").textContent = `${Math.round(100 * state.opacity)}%`;
  showEpoch();
  showHeat();
  showTissues(layer);
}

function showEpoch() {
  const count = epochs();
  $("epochs").hidden = !count;
  if (!count) return stop();
  const epoch = Math.min(state.epoch ?? count - 1, count - 1);
  Object.assign($("epoch"), { max: count, value: epoch + 1 });
  $("epoch-told").textContent = `${epoch + 1} of ${count}`;
}

function showHeat() {
  const able = shown().find((layer) => layer?.heat);
  $("heat-label").hidden = !able;
  if (!able) {
    $("heat-legend").hidden = true;
    $("tissues").hidden = $("tissues-title").hidden = false;
    return;
  }
  const what = able.kind.includes("attention") ? "attention" : "probability";
  $("heat").replaceChildren(option("", "tissues", !state.heat),
    ...able.tissues.map((tissue) => option(tissue.name, `${what} of ${tissue.name}`, tissue.name === state.heat)));
  const hot = Boolean(state.heat);
  $("heat-legend").hidden = !hot;
  $("heat-what").textContent = hot ? `${what} of ${state.heat}` : "";
  $("tissues").hidden = $("tissues-title").hidden = hot && shown().every((layer) => layer?.heat);
}

function showTissues(layer) {
  $("tissues").replaceChildren(...layer.tissues.map((tissue, k) => {
    const box = element("input", { type: "checkbox", checked: !state.hidden.has(tissue.name) });
    box.addEventListener("change", () => toggle(tissue.name));
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = `rgb(${tissue.colour.join(",")})`;
    return element("label", {}, box, swatch, tissue.name, ...(k < 9 ? [element("kbd", { textContent: k + 1 })] : []), element("span", { className: "area" }));
  }));
  showShares(layer);
}

const area = (mm2) => (mm2 >= 0.01 ? `${mm2.toFixed(2)} mm²` : `${Math.round(1e6 * mm2).toLocaleString()} µm²`);

// Areas of the first layer's tissues; a network's come when it has drawn.
let asking = 0;
async function showShares(layer) {
  const turn = ++asking;
  const wants = layer.epochs && state.epoch !== null ? `?epoch=${Math.min(state.epoch, layer.epochs - 1)}` : "";
  $("total").textContent = layer.kind === "network" ? "The network is drawing …" : "";
  try {
    const { tissues } = await ask(`api/scenes/${state.number}/layers/${layer.index}/shares${wants}`);
    if (turn !== asking) return;
    const cells = $("tissues").querySelectorAll(".area");
    tissues.forEach(({ share, area_mm2: mm2 }, k) => {
      cells[k].textContent = `${mm2 === undefined ? "" : `${area(mm2)} · `}${Math.round(100 * share)}%`;
    });
    const total = tissues.reduce((sum, tissue) => sum + (tissue.area_mm2 ?? 0), 0);
    $("total").textContent = total ? `${area(total)} of tissue` : "";
  } catch (error) {
    if (turn !== asking) return;
    $("total").textContent = "";
    notice(error.message);
  }
}

function redraw() {
  showPanel();
  draw();
  remember();
}

function toggle(name) {
  state.hidden.has(name) ? state.hidden.delete(name) : state.hidden.add(name);
  redraw();
}

function setOpacity(value) {
  state.opacity = Math.max(0, Math.min(1, value));
  $("opacity-told").textContent = `${Math.round(100 * state.opacity)}%`;
  for (const pane of panes) pane.setOpacity(state.opacity);
}

function setEpoch(epoch) {
  const count = epochs();
  if (!count) return;
  state.epoch = Math.max(0, Math.min(count - 1, epoch));
  showEpoch();
  draw();
  remember();
  if (current()?.epochs) showShares(current());
}

const stepEpoch = (by) => setEpoch((state.epoch ?? epochs() - 1) + by);

function stop() {
  clearInterval(state.playing);
  state.playing = null;
  press("play", false);
}

function play() {
  if (state.playing) return stop();
  if (!epochs()) return;
  setEpoch(state.epoch === null || state.epoch >= epochs() - 1 ? 0 : state.epoch);
  state.playing = setInterval(() => {
    if (state.epoch >= epochs() - 1) stop();
    else setEpoch(state.epoch + 1);
  }, STEP);
  press("play", true);
}

function nextHeat() {
  if ($("heat-label").hidden) return;
  const values = [...$("heat").options].map((one) => one.value);
  state.heat = values[(values.indexOf(state.heat) + 1) % values.length];
  redraw();
}

// --- what is wrong ----------------------------------------------------------------------------------------------------

function setMarking(marking) {
  state.marking = marking && Boolean(state.scene?.wrong);
  press("wrong", state.marking);
  for (const pane of panes) pane.cross.hidden = !state.marking;
  if (state.marking) $("place").textContent = "Click where the map is wrong, or press Enter to mark the middle. W ends it.";
  else remember();
}

// The patch at a place is asked about again; a place inside a mark takes that back.
async function mark(x, y) {
  const inside = state.scene.wrong.marks.find(({ box: [left, top, width, height] }) => x >= left && y >= top && x < left + width && y < top + height);
  if (inside) return takeBack(inside);
  const { number } = state;
  try {
    const { marked, wrong } = await ask(`api/scenes/${number}/wrong`, { x, y });
    if (number === state.number) take(wrong, `${marked.name} is asked about first on the labelling page.`);
  } catch (error) {
    notice(error.message);
  }
}

async function takeBack(marked) {
  const { number } = state;
  try {
    const { wrong } = await ask(`api/scenes/${number}/right`, { patch: marked.patch });
    if (number === state.number) take(wrong, `${marked.name}: taken back.`);
  } catch (error) {
    notice(error.message);
  }
}

function take(wrong, text) {
  state.scene.wrong = wrong;
  notice("");
  showMarks();
  for (const pane of panes) pane.drawMarks(wrong.marks);
  $("place").textContent = text;
}

function showMarks() {
  const { wrong } = state.scene;
  const marks = wrong?.marks ?? [];
  $("marks").hidden = marks.length === 0;
  $("marked").replaceChildren(...marks.map((one) => {
    const button = element("button", { type: "button", textContent: "Take back" });
    button.addEventListener("click", () => takeBack(one));
    return element("li", {}, element("span", { textContent: one.name }), button);
  }));
  const quoted = (text) => (/[^\w./-]/.test(text) ? `'${text}'` : text);
  if (wrong) $("label-command").textContent = `patch2tissue label ${quoted(wrong.folder)} --tissues ${quoted(wrong.tissues)}`;
}

// --- slides and patches -----------------------------------------------------------------------------------------------

function makePanes() {
  for (const pane of panes) pane.close();
  panes = [];
  for (const _ of shown()) panes.push(new Pane($("panes"), state, on));
}

async function open(number) {
  const before = { layer: current() && key(current()), other: state.scene?.layers[state.other], beside: state.beside };
  try {
    const scene = await ask(`api/scenes/${number}`);
    scene.layers.forEach((layer, index) => { layer.index = index; });
    Object.assign(state, { number, scene });
    notice("");
  } catch (error) {
    notice(error.message);
    $("scene").value = state.number;
    return;
  }
  const { layers } = state.scene;
  state.layer = find(wanted.get("layer") ?? before.layer);
  const other = wanted.get("beside") ?? (before.beside && before.other ? key(before.other) : null);
  state.beside = other !== null && layers.length > 1;
  state.other = find(other, counterpart());
  document.title = `${state.scene.name} – tissue maps`;
  $("scene").value = number;
  showPanel();
  makePanes();
  setMarking(state.marking);
}

const step = (by) => {
  const number = state.number + by;
  if (number >= 0 && number < state.scenes.length) open(number);
};

function setBeside() {
  if ($("beside").hidden) return;
  // the same place again
  wanted = new URLSearchParams(location.hash.slice(1));
  state.beside = !state.beside;
  if (state.beside) state.other = counterpart();
  showPanel();
  makePanes();
  setMarking(state.marking);
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
const markMiddle = () => {
  if (!state.marking || !panes[0].ready) return;
  const { x, y } = panes[0].position();
  mark(x, y);
};

const KEYS = {
  "+": () => zoom(1.6), "=": () => zoom(1.6), "-": () => zoom(1 / 1.6), 0: home, m: setMap, s: setBeside,
  ArrowLeft: () => pan(-1, 0), ArrowRight: () => pan(1, 0), ArrowUp: () => pan(0, -1), ArrowDown: () => pan(0, 1),
  ",": () => stepEpoch(-1), ".": () => stepEpoch(1), h: nextHeat, w: () => setMarking(!state.marking), Enter: markMiddle,
  n: () => step(1), p: () => step(-1), g: () => { if (!$("all").hidden) state.gallery.open(state.number); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !panes.length || $("gallery").open) return;
  if (event.target.matches("select")) return;
  // arrows move the slider that has the focus, and Enter presses the button
  if (event.target.matches("input[type=range]") && event.key.startsWith("Arrow")) return;
  if (event.target.matches("button") && event.key === "Enter") return;
  const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const tissue = current()?.tissues[Number(name) - 1];
  if (/^[1-9]$/.test(name) && tissue) toggle(tissue.name);
  else if (KEYS[name]) KEYS[name]();
  else return;
  event.preventDefault();
});

const clicks = {
  in: KEYS["+"], out: KEYS["-"], home, beside: setBeside, before: KEYS.p, after: KEYS.n, all: KEYS.g, play, theme: switchTheme,
  wrong: KEYS.w,
};
for (const [id, act] of Object.entries(clicks)) {
  $(id).addEventListener("click", (event) => {
    if (event.detail > 0) $(id).blur(); // so that Enter marks and does not press the button again
    act();
  });
}
$("map").addEventListener("change", setMap);
$("opacity").addEventListener("input", () => setOpacity($("opacity").value / 100));
$("opacity").addEventListener("change", remember);
$("epoch").addEventListener("input", () => setEpoch(Number($("epoch").value) - 1));
$("heat").addEventListener("change", () => { state.heat = $("heat").value; redraw(); });
$("which").addEventListener("change", () => { state.layer = Number($("which").value); redraw(); });
$("other").addEventListener("change", () => { state.other = Number($("other").value); redraw(); });
$("scene").addEventListener("change", () => open(Number($("scene").value)));
$("link").addEventListener("click", async () => {
  remember();
  try {
    await navigator.clipboard.writeText(location.href);
    $("place").textContent = "The link is copied. It works as long as this server runs.";
  } catch {
    $("place").textContent = location.href;
  }
});

function listScenes() {
  const groups = Object.keys(GROUPS).filter((group) => state.scenes.some((scene) => scene.group === group));
  const options = (group) => state.scenes.flatMap((scene, k) => (scene.group === group ? [option(k, scene.name)] : []));
  $("scene").replaceChildren(...(groups.length > 1
    ? groups.map((group) => element("optgroup", { label: GROUPS[group] }, ...options(group)))
    : options(groups[0])));
  for (const id of ["before", "after", "all"]) $(id).hidden = state.scenes.length < 2;
  state.gallery = new Gallery(state.scenes, open);
}

try {
  const { scenes, tile, heat } = await ask("api/scenes");
  Object.assign(state, { scenes, tile });
  $("ramp").style.background = `linear-gradient(to right, ${heat.map((colour) => `rgb(${colour.join(",")})`).join(",")})`;
  listScenes();
  state.on = wanted.get("off") !== "1";
  state.hidden = new Set((wanted.get("hidden") ?? "").split("|").filter(Boolean));
  state.heat = wanted.get("heat") ?? "";
  const [opacity, epoch] = ["opacity", "epoch"].map((name) => Number.parseFloat(wanted.get(name)));
  if (Number.isFinite(opacity)) state.opacity = Math.max(0, Math.min(1, opacity / 100));
  if (epoch >= 1) state.epoch = Math.floor(epoch) - 1;
  await open(Math.max(0, scenes.findIndex((scene) => scene.name === wanted.get("slide"))));
} catch (error) {
  notice(`The page could not start: ${error.message}`);
}
