// Parts: one is shown at a time; the others are packed until they are asked for. Which one, in the address: `#part=2`.
{
  const holder = document.querySelector(".tna-parts");
  const packed = JSON.parse(document.querySelector(".tna-packed").textContent).parts;
  const tabs = [...document.querySelectorAll(".tna-text [data-part]")];
  const opened = new Map([[0, holder.firstElementChild]]);
  let shown = 0;

  const unpack = async (number) => window.tnaUnpack(packed[number]); // async: what it throws is awaited too

  const run = (part) => {
    for (const draw of [window.tnaTables, window.tnaFlows, window.tnaLayers, window.tnaPatterns]) draw?.(part);
  };

  const mark = (number) => {
    for (const tab of tabs) {
      const mine = Number(tab.dataset.part) === number;
      tab.setAttribute("aria-selected", String(mine));
      tab.tabIndex = mine ? 0 : -1;
    }
  };

  const show = async (number) => {
    shown = number;
    mark(number);
    window.tnaState.set("part", number ? String(number) : "");
    let part = opened.get(number);
    if (!part) {
      part = document.createElement("div");
      part.className = "tna-part";
      part.setAttribute("role", "tabpanel");
      try {
        part.innerHTML = await unpack(number);
      } catch (error) {
        part.textContent = `This browser cannot unpack the other parts of the page: ${error.message}`;
      }
    }
    if (shown !== number) return; // another was asked for meanwhile
    holder.replaceChildren(part);
    if (!opened.has(number)) {
      opened.set(number, part);
      run(part);
    }
    window.tnaRepin();
  };

  document.addEventListener("click", (event) => {
    const tab = event.target instanceof Element && event.target.closest("[data-part],[data-step]");
    if (!tab) return;
    show(tab.dataset.part ? Number(tab.dataset.part) : shown + Number(tab.dataset.step));
    if (!tabs.includes(tab)) window.scrollTo(0, 0); // the text is above
  });
  for (const [i, tab] of tabs.entries()) {
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = tabs[(i + step + tabs.length) % tabs.length];
      next.focus();
      show(Number(next.dataset.part));
    });
  }

  // The data of every part, for the file that is downloaded.
  window.tnaEverything = async () => {
    const all = packed.map(async (_, number) => {
      const part = opened.get(number) ?? new DOMParser().parseFromString(await unpack(number), "text/html");
      return JSON.parse(part.querySelector("#tna-data").textContent);
    });
    return JSON.stringify({ parts: await Promise.all(all) });
  };

  const first = Number(window.tnaState.get("part") ?? 0);
  if (first > 0 && first < packed.length) show(first);
  else mark(0);
}
