// One cursor for all lanes of a run. Pointer or arrow keys move it; each lane then shows its values at that time, read
// from its own table. Nothing is loaded and nothing is stored.
for (const figure of document.querySelectorAll(".figure")) {
  const steps = Number(figure.dataset.steps), step = Number(figure.dataset.step);
  const axis = figure.querySelector(".axis"), clock = figure.querySelector(".clock");
  const idle = clock.textContent;
  let at = -1;
  const show = (next) => {
    if (next === at) return;
    at = next;
    figure.classList.toggle("live", at !== -1);
    figure.style.setProperty("--x", (100 * (at + 0.5)) / steps + "%");
    const seconds = String(Math.round(at * step) / 1000) + " s";
    clock.textContent = at === -1 ? idle : "at " + seconds;
    axis.setAttribute("aria-valuenow", String(Math.max(at, 0)));
    axis.setAttribute("aria-valuetext", at === -1 ? "no time chosen" : seconds);
    for (const lane of figure.querySelectorAll(".lane")) {
      const cells = lane.querySelectorAll("b[data-c]");
      if (cells.length === 0) continue;
      const row = at === -1 ? null : lane.querySelector("tbody").rows[at];
      for (const cell of cells) cell.textContent = row ? row.cells[Number(cell.dataset.c)].textContent : cell.dataset.m;
    }
  };
  const follow = (event) => {
    const plot = event.target.closest(".plot");
    if (!plot) return;
    const box = plot.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    show(Math.min(steps - 1, Math.max(0, Math.floor(share * steps))));
  };
  figure.addEventListener("pointermove", follow);
  figure.addEventListener("pointerdown", follow);
  figure.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") show(-1); });
  axis.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10, Home: -steps, End: steps };
    if (event.key === "Escape") { show(-1); return; }
    const by = moves[event.key];
    if (by === undefined) return;
    event.preventDefault();
    show(Math.min(steps - 1, Math.max(0, at + by)));
  });
}
