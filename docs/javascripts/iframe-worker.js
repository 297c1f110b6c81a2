// The search runs in a web worker, which browsers refuse to start for pages opened from a disk
// (file:). This class has the interface of Worker and runs the script in a hidden frame instead.
// Material for MkDocs asks for it by the name IFrameWorker.
;(function () {
  class IFrameWorker extends EventTarget {
    constructor(url) {
      super()
      this.onmessage = null
      this.onerror = null
      this.iframe = document.createElement("iframe")
      this.iframe.hidden = true
      document.body.appendChild(this.iframe)
      const frame = this.iframe.contentWindow
      this.frame = frame
      this.listener = (event) => {
        if (event.source !== frame) return
        const message = new MessageEvent("message", { data: event.data })
        this.dispatchEvent(message)
        if (this.onmessage) this.onmessage(message)
      }
      window.addEventListener("message", this.listener)
      // Messages that arrive before the script is loaded wait for it.
      this.ready = new Promise((resolve) => {
        frame.postMessage = (data) => window.postMessage.call(window, data, "*")
        frame.importScripts = (...urls) =>
          urls.reduce((done, part) => done.then(() => load(frame, part)), Promise.resolve())
        load(frame, url).then(resolve)
      })
    }

    postMessage(data) {
      this.ready.then(() => {
        this.frame.dispatchEvent(new MessageEvent("message", { data }))
      })
    }

    terminate() {
      window.removeEventListener("message", this.listener)
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
