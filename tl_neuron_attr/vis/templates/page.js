// Tables that sort, filter and copy; marks of one neuron or head that light up together; what is pinned, in the address.
if (!window.tnaPage) {
  window.tnaPage = true;
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // The address holds what was pinned and set: `#pin=L12H2&share=0.7`. A page in a notebook's frame has none to write.
  const state = new URLSearchParams(location.hash.slice(1));
  const remember = (key, value) => {
    if (value) state.set(key, value);
    else state.delete(key);
    try {
      history.replaceState(null, "", state.size ? `#${state}` : "#");
    } catch {
      // nothing to remember it in
    }
  };
  window.tnaState = { get: (key) => state.get(key), set: remember };

  // A page of several parts shows one of them: what happens there stays there.
  const shown = () => document.querySelector(".tna-part") ?? document;
  const tell = (what, detail) => shown().dispatchEvent(new CustomEvent(what, { detail }));

  // Units: everything with the same data-unit is the same neuron or head; data-in names the head of an attention neuron.
  const marks = (unit) => all(`[data-unit="${CSS.escape(unit)}"],[data-in="${CSS.escape(unit)}"]`);
  const unitAt = (event) => (event.target instanceof Element ? event.target.closest("[data-unit]")?.dataset.unit : undefined);
  let pinned = state.get("pin") ?? "";
  const show = () => {
    for (const mark of all(".pinned")) mark.classList.remove("pinned");
    for (const mark of pinned ? all(`[data-unit="${CSS.escape(pinned)}"]`) : []) mark.classList.add("pinned");
  };
  const light = (unit) => {
    for (const mark of all(".lit")) mark.classList.remove("lit");
    for (const mark of unit ? marks(unit) : []) mark.classList.add("lit");
    tell("tna:point", unit ?? "");
  };
  const pin = (unit) => {
    pinned = unit;
    remember("pin", pinned);
    repin();
  };
  const repin = () => {
    show();
    light(pinned);
    tell("tna:pin", pinned);
  };
  window.tnaRepin = repin;
  document.addEventListener("pointerover", (event) => light(unitAt(event) ?? pinned));
  document.addEventListener("focusin", (event) => light(unitAt(event) ?? pinned));
  document.addEventListener("click", (event) => {
    const unit = unitAt(event);
    if (unit) pin(unit === pinned ? "" : unit);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && pinned) pin("");
    if ((event.key === "Enter" || event.key === " ") && event.target.matches("svg [data-unit]")) {
      event.preventDefault();
      event.target.dispatchEvent(new MouseEvent("click", { bubbles: true }));
    }
  });

  const button = (text, action) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.addEventListener("click", () => action(made));
    return made;
  };
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // no permission, as in a notebook's frame
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };
  const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;
  const cell = (value) => (Array.isArray(value) ? value.join(" | ") : (value ?? ""));
  const csv = (rows) => [Object.keys(rows[0] ?? {}), ...rows.map((row) => Object.values(row).map(cell))]
    .map((line) => line.map((value) => (typeof value === "number" ? value : quoted(value))).join(",")).join("\n");

  const setUp = (root) => {
    const source = root.querySelector("#tna-data");
    const data = source ? JSON.parse(source.textContent) : { tables: {} };

    for (const box of all(".tna-table", root)) {
      const body = box.querySelector("tbody");
      const heads = all("thead th", box);
      const rows = all("tr", body);
      const name = box.dataset.table;
      rows.forEach((row, i) => {
        row.dataset.i = i;
        heads.forEach((head, column) => {
          if (head.classList.contains("num") && !head.classList.contains("answer") && column) {
            row.cells[column].dataset.label = head.textContent.trim();
          }
        });
      });
      const key = (row, column) => {
        const text = row.cells[column].textContent.trim();
        const number = Number(text.replaceAll(/[,≠\s]/g, ""));
        return heads[column].classList.contains("num") && text && !Number.isNaN(number) ? number : text;
      };
      const sort = (column, down) => {
        heads.forEach((head, i) => head.hasAttribute("aria-sort") && head.setAttribute("aria-sort", i === column ? (down ? "descending" : "ascending") : "none"));
        const keyed = rows.map((row) => [key(row, column), row]);
        keyed.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1));
        body.append(...keyed.map(([, row]) => row));
        remember(`sort.${name}`, `${column}${down ? "v" : ""}`);
      };
      heads.forEach((head, column) => {
        if (!head.textContent.trim()) return;
        head.setAttribute("aria-sort", "none");
        head.tabIndex = 0;
        const flip = () => sort(column, head.getAttribute("aria-sort") !== "descending" && (head.classList.contains("num") && column > 0 || head.getAttribute("aria-sort") === "ascending"));
        head.addEventListener("click", flip);
        head.addEventListener("keydown", (event) => event.key === "Enter" && flip());
      });

      const tools = document.createElement("div");
      tools.className = "tools";
      const filter = document.createElement("input");
      filter.type = "search";
      filter.placeholder = "filter";
      filter.setAttribute("aria-label", `filter ${name}`);
      const count = document.createElement("span");
      const refilter = () => {
        const wanted = filter.value.toLowerCase();
        let kept = 0;
        for (const row of rows) {
          row.hidden = !row.textContent.replaceAll("␣", " ").toLowerCase().includes(wanted);
          kept += !row.hidden;
        }
        count.textContent = wanted ? `${kept} of ${rows.length}` : `${rows.length}`;
      };
      filter.addEventListener("input", refilter);
      const shown = () => all("tr", body).filter((row) => !row.hidden).map((row) => data.tables[name][row.dataset.i]);
      const said = (made, text) => copy(text).then(() => {
        const before = made.textContent;
        made.textContent = "copied";
        setTimeout(() => (made.textContent = before), 1200);
      });
      tools.append(filter, count);
      if (data.tables[name]) {
        tools.append(button("copy CSV", (made) => said(made, csv(shown()))), button("copy JSON", (made) => said(made, JSON.stringify(shown(), null, 1))));
      }
      if (box.querySelector(".fragment")) {
        const fragments = button("fragments", () => fragments.setAttribute("aria-pressed", String(box.classList.toggle("fragments"))));
        fragments.title = "tokens that are no words: pieces of words, reserved tokens, punctuation";
        fragments.setAttribute("aria-pressed", "false");
        tools.append(fragments);
      }
      const scroller = document.createElement("div");
      scroller.className = "rows";
      scroller.append(box.querySelector("table"));
      box.append(tools, scroller);
      refilter();
      const sorted = state.get(`sort.${name}`);
      if (sorted) sort(parseInt(sorted, 10), sorted.endsWith("v"));
    }

    for (const link of all(".download", root)) {
      link.addEventListener("click", async () => {
        const file = document.createElement("a");
        const everything = (await window.tnaEverything?.()) ?? source.textContent;
        file.href = URL.createObjectURL(new Blob([everything], { type: "application/json" }));
        file.download = link.dataset.file;
        file.click();
      });
    }
    show();
    if (pinned) light(pinned);
  };
  window.tnaTables = setUp;
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", () => setUp(shown()));
  else setUp(shown());
}
