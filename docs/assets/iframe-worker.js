/* Search without a server: a browser starts no Worker from a page opened as a file (file:), so the script of the
   search runs in a hidden frame instead and answers by the same messages. */
(() => {
  if (location.protocol !== "file:") return;

  class FrameWorker extends EventTarget {
    constructor(address) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);

      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = async (...addresses) => {
        for (const one of addresses) await load(inside, one);
      };
      load(inside, address).then(() => {
        const waiting = this.waiting;
        this.waiting = null;
        waiting.forEach((data) => this.postMessage(data));
      });
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
    }

    terminate() {
      this.frame.remove();
    }
  }

  function load(inside, address) {
    return new Promise((done, failed) => {
      const script = inside.document.createElement("script");
      script.src = new URL(address, location.href).href;
      script.onload = done;
      script.onerror = failed;
      inside.document.body.append(script);
    });
  }

  window.Worker = FrameWorker;
  window.IFrameWorker = FrameWorker; // by this name the search script knows where to look for its languages
})();
