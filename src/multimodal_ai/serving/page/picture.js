// Pictures: small in a message, large in a dialog, and over them where the model looked.

import { brightest } from "./attention.js";
import { byId, h } from "./dom.js";

const COLOUR = [255, 120, 0];

/** A heat map as a canvas of one pixel a cell; its place and size are the style sheet's. */
export function heatMap({ rows, columns, weights }) {
  const canvas = h("canvas", { class: "heat", width: columns, height: rows, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  const most = Math.max(...weights, 1e-9);
  weights.forEach((weight, cell) => pixels.data.set([...COLOUR, Math.round(150 * (weight / most))], 4 * cell));
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** A picture that opens in full size. looks(): the arguments that looked at it, of `looksAt`. */
export function thumbnail(url, words, looks = () => []) {
  const open = () => showPicture(url, words, looks());
  return h("button", { type: "button", class: "thumbnail", "aria-label": `Show ${words}`, onclick: open }, h("img", { src: url, alt: words }));
}

/** The picture large; one of `looks` may be chosen, and then its heat map lies over it. */
export function showPicture(url, words, looks, chosen = null) {
  const dialog = byId("picture");
  const figure = dialog.querySelector(".figure");
  const caption = dialog.querySelector("[role=status]");
  const shape = () => figure.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
  const image = h("img", { src: url, alt: `${words} in full size`, onload: shape });
  const show = (look) => {
    figure.replaceChildren(image, ...(look ? [heatMap(look.image)] : []));
    caption.textContent = look ? `Brightest: ${brightest(look.image)}. ${Math.round(100 * share(look))}% of what it looked at lies in this picture.` : "";
  };
  const choice = (look, label) => {
    const radio = h("input", { type: "radio", name: "look", checked: look === chosen, onchange: () => show(look) });
    return h("label", {}, radio, " ", label);
  };
  const said = ({ call, name, value }) => h("span", {}, `${call.name}, ${name}: `, h("code", {}, JSON.stringify(value)));
  const list = dialog.querySelector("fieldset");
  list.hidden = !looks.length;
  list.replaceChildren(
    h("legend", {}, "Where the model looked for"),
    choice(null, "nothing, only the picture"),
    ...looks.map((look) => choice(look, said(look))),
  );
  show(chosen);
  dialog.showModal();
  list.querySelector("input:checked")?.focus();
}

const share = ({ image }) => image.weights.reduce((total, weight) => total + weight, 0);
