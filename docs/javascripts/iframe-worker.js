// The search runs in a web worker, which browsers refuse to start for pages opened from a disk
// (file:). This class has the interface of Worker and runs the script in a hidden frame instead.
// Material for MkDocs asks for it by the name IFrameWorker.
;(function () {
  class IFrameWorker extends EventTarget {
    constructor(url) {
      super()
      this.onmessage = null
      this.iframe = document.createElement("iframe")
      this.iframe.hidden = true
      document.body.appendChild(this.iframe)
      this.frame = this.iframe.contentWindow
      this.frame.postMessage = (data) => setTimeout(() => this.deliver(data))
      this.frame.importScripts = (...urls) =>
        urls.reduce((done, part) => done.then(() => load(this.frame, part)), Promise.resolve())
      // Messages that arrive before the script is loaded wait for it.
      this.ready = load(this.frame, url)
    }

    // From the script in the frame to the page.
    deliver(data) {
      const message = new MessageEvent("message", { data })
      this.dispatchEvent(message)
      if (this.onmessage) this.onmessage(message)
    }

    // From the page to the script in the frame.
    postMessage(data) {
      this.ready.then(() => this.frame.dispatchEvent(new MessageEvent("message", { data })))
    }

    terminate() {
      this.iframe.remove()
    }
  }

  function load(frame, url) {
    return new Promise((resolve, reject) => {
      const script = frame.document.createElement("script")
      script.src = String(url)
      script.onload = resolve
      script.onerror = () => reject(new Error("cannot load " + url))
      frame.document.body.appendChild(script)
    })
  }

  window.IFrameWorker = IFrameWorker
  if (location.protocol === "file:") window.Worker = IFrameWorker
})()
