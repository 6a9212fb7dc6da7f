// Images for the next message: pasted, dropped, chosen or taken with the camera. They are sent as they are.

import { announce, button, byId, h, iconButton } from "./dom.js";
import { thumbnail } from "./picture.js";

const TYPES = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];

function asDataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

export class ImageTray {
  constructor() {
    this.urls = [];
    this.element = byId("tray");
    this.file = byId("file");
    byId("attach").addEventListener("click", () => this.file.click());
    this.file.addEventListener("change", async () => {
      await this.add(this.file.files);
      this.file.value = "";
    });
    byId("camera").addEventListener("click", () => this.#camera());
    byId("composer").addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      if (!files.length) return;
      event.preventDefault();
      this.add(files);
    });
    const page = document.body;
    page.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      page.classList.add("dropping");
    });
    page.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) page.classList.remove("dropping");
    });
    page.addEventListener("drop", (event) => {
      if (!event.dataTransfer.files.length) return;
      event.preventDefault();
      page.classList.remove("dropping");
      this.add(event.dataTransfer.files);
    });
  }

  /** Take files in; those that are no pictures are refused in words. */
  async add(files) {
    for (const file of [...files]) {
      if (TYPES.includes(file.type)) this.urls.push(await asDataUrl(file));
      else announce(`${file.name}: no picture that can be sent; use PNG, JPEG, WebP, GIF or BMP`);
    }
    this.#render();
  }

  /** Give the images away. */
  take() {
    const { urls } = this;
    this.put([]);
    return urls;
  }

  put(urls) {
    this.urls = [...urls];
    this.#render();
  }

  #render() {
    const items = this.urls.map((url, index) => {
      const remove = () => this.put(this.urls.filter((_, other) => other !== index));
      return h("li", {}, thumbnail(url, `image ${index + 1}`), iconButton("✕", `Remove image ${index + 1}`, remove));
    });
    this.element.replaceChildren(...items);
    this.element.hidden = !items.length;
  }

  async #camera() {
    if (!navigator.mediaDevices?.getUserMedia) {
      this.file.click(); // a phone's file chooser offers its camera; plain http has no other way
      return;
    }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      announce(error.name === "NotAllowedError" ? "The camera was not allowed" : "No camera was found");
      return;
    }
    const dialog = byId("camera-dialog");
    const video = dialog.querySelector("video");
    video.srcObject = stream;
    const take = button("Take picture", async () => {
      const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
      canvas.getContext("2d").drawImage(video, 0, 0);
      const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
      dialog.close();
      await this.add([blob]);
    }, { class: "primary", disabled: true });
    dialog.querySelector(".actions").replaceChildren(take, button("Cancel", () => dialog.close()));
    const stop = () => {
      for (const track of stream.getTracks()) track.stop();
      video.srcObject = null;
    };
    dialog.addEventListener("close", stop, { once: true });
    dialog.showModal();
    await video.play().catch(() => {}); // closed before it began
    take.disabled = !video.videoWidth; // only now there is a picture to take
  }
}
