/* A page opened from a folder (file:) may not start a Worker. An invisible frame with the same interface replaces it,
   so that search works without a server. Material's search looks for the name IFrameWorker. */
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      const load = (address) => new Promise((resolve, reject) => {
        const script = frame.contentDocument.createElement("script");
        Object.assign(script, {src: address, onload: resolve, onerror: reject});
        frame.contentDocument.body.append(script);
      });
      inside.importScripts = (...addresses) =>
        addresses.reduce((before, address) => before.then(() => load(address)), Promise.resolve());
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", {data}));
      this.ready = load(new URL(url, document.baseURI).href);
      this.postMessage = (data) => this.ready.then(() => inside.dispatchEvent(new MessageEvent("message", {data})));
      this.terminate = () => frame.remove();
    }
    set onmessage(handler) { this.addEventListener("message", handler); }
    set onerror(handler) { this.addEventListener("error", handler); }
  };
  window.Worker = window.IFrameWorker;
}
