// One picture by deep zoom (OpenSeadragon), with a layer of tissue and marks on top.

import { element } from "../shared/page.js";

const PATIENCE = 5000; // ms after which the layer before goes even if the new one has holes

// What OpenSeadragon needs to know of a picture whose tiles lie under a path.
function source(about, tile, path, query) {
  return {
    width: about.width, height: about.height, tileSize: tile, tileOverlap: 0, minLevel: 0, maxLevel: about.deepest,
    getTileUrl: (level, x, y) => `${path}/${level}/${x}_${y}${query}`,
  };
}

export class Pane {
  // `on` is told what happens: opened(pane), moved(pane), rested(pane), clicked(pane, x, y), failed(text).
  constructor(place, { number, scene, tile }, on) {
    Object.assign(this, { number, scene, tile, on, layer: null, past: [], drawn: "", made: 0, opacity: 1, ready: false });
    this.canvas = element("div", { className: "canvas" });
    this.scale = element("div", { className: "scale" }, element("span"), element("i"));
    this.title = element("div", { className: "from", hidden: true });
    this.cross = element("div", { className: "cross", hidden: true });
    this.place = element("div", { className: "pane" }, this.canvas, this.cross, this.title, this.scale);
    place.append(this.place);
    this.viewer = OpenSeadragon({
      element: this.canvas, drawer: "canvas", showNavigationControl: false, animationTime: 0.4, maxZoomPixelRatio: 12,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true }, imageLoaderLimit: 8, timeout: 180000,
      tileSources: source(scene, tile, `scenes/${number}/slide`, ""),
    });
    this.viewer.addHandler("open-failed", () => on.failed("The picture could not be opened."));
    this.viewer.addHandler("open", () => {
      this.ready = true;
      on.opened(this);
      this.drawScale();
    });
    this.viewer.addHandler("update-viewport", () => this.drawScale());
    this.viewer.addHandler("viewport-change", () => on.moved(this));
    this.viewer.addHandler("animation-finish", () => on.rested(this));
    this.viewer.addHandler("canvas-key", (event) => { event.preventDefaultAction = true; });
    this.viewer.addHandler("canvas-click", (event) => {
      if (!event.quick) return;
      const { x, y } = this.image.viewportToImageCoordinates(this.viewer.viewport.pointFromPixel(event.position));
      on.clicked(this, x, y);
    });
  }

  get image() {
    return this.viewer.world.getItemAt(0);
  }

  // Lay a layer over the picture, or none; the one before goes when the new one is there.
  draw(layer, query, title) {
    this.title.textContent = title;
    this.title.hidden = !title;
    const wanted = layer ? `${layer.index}${query}` : "";
    if (wanted === this.drawn) return;
    this.drawn = wanted;
    if (this.layer) this.past.push(this.layer);
    this.layer = null;
    const turn = ++this.made;
    if (!layer) {
      this.forget(turn);
      return;
    }
    this.viewer.addTiledImage({
      tileSource: source(layer, this.tile, `scenes/${this.number}/layers/${layer.index}`, query),
      x: 0, y: 0, width: (layer.width * layer.scale[0]) / this.scene.width, opacity: this.opacity,
      success: ({ item }) => {
        if (turn !== this.made) {
          this.viewer.world.removeItem(item);
          return;
        }
        this.layer = item;
        item.setOpacity(this.opacity);
        item.addHandler("fully-loaded-change", ({ fullyLoaded }) => { if (fullyLoaded) this.forget(turn); });
        setTimeout(() => this.forget(turn), PATIENCE);
      },
      error: ({ message }) => this.on.failed(`The layer could not be drawn: ${message}`),
    });
  }

  // Take away the layers that were there before, unless yet another one is on its way.
  forget(turn) {
    if (turn !== this.made) return;
    for (const item of this.past.splice(0)) this.viewer.world.removeItem(item);
  }

  setOpacity(opacity) {
    this.opacity = opacity;
    this.layer?.setOpacity(opacity);
  }

  // Frames around patches that are marked, with a ring at the place.
  drawMarks(marks) {
    this.viewer.clearOverlays();
    if (!this.image) return;
    for (const mark of marks) {
      const [x, y, width, height] = mark.box;
      const frame = element("div", { className: "mark", title: `${mark.name}: said to be wrong` }, element("i"));
      frame.firstChild.style.left = `${(100 * (mark.point[0] - x)) / width}%`;
      frame.firstChild.style.top = `${(100 * (mark.point[1] - y)) / height}%`;
      this.viewer.addOverlay({ element: frame, location: this.image.imageToViewportRectangle(x, y, width, height) });
    }
  }

  drawScale() {
    const um = this.scene.um_per_pixel?.[0];
    this.scale.hidden = !um;
    if (!um || !this.image) return;
    const perPixel = um / this.image.viewportToImageZoom(this.viewer.viewport.getZoom(true)); // µm per pixel of the screen
    const longest = 160 * perPixel;
    const power = 10 ** Math.floor(Math.log10(longest));
    const length = power * (longest >= 5 * power ? 5 : longest >= 2 * power ? 2 : 1);
    this.scale.firstChild.textContent = length >= 1000 ? `${length / 1000} mm` : `${Number(length.toPrecision(3))} µm`;
    this.scale.lastChild.style.width = `${length / perPixel}px`;
    this.scale.dataset.um = length;
  }

  // Middle in pixels of the picture, and pixels of the screen per pixel of the picture.
  position() {
    const { viewport } = this.viewer;
    const middle = this.image.viewportToImageCoordinates(viewport.getCenter());
    return { x: middle.x, y: middle.y, zoom: Number(this.image.viewportToImageZoom(viewport.getZoom()).toPrecision(4)) };
  }

  goTo(x, y, zoom) {
    this.viewer.viewport.zoomTo(this.image.imageToViewportZoom(zoom), undefined, true);
    this.viewer.viewport.panTo(this.image.imageToViewportCoordinates(x, y), true);
  }

  // Look where another pane looks.
  follow(leader) {
    this.viewer.viewport.zoomTo(leader.viewer.viewport.getZoom(), undefined, true);
    this.viewer.viewport.panTo(leader.viewer.viewport.getCenter(), true);
  }

  close() {
    this.made += 1;
    this.viewer.destroy();
    this.place.remove();
  }
}
