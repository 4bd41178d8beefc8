// On paper: every figure, in light, as wide as A4 and Letter leave room for.
addEventListener("beforeprint", () => {
  paper = { width: 660, height: 330, autosize: false };
  document.documentElement.dataset.theme = "light";
  for (const node of figures.keys()) draw(node);
});

addEventListener("afterprint", () => {
  paper = null;
  applyTheme();
  redraw();
});
