"use strict";
// What others wrote comes as data and reaches the page by textContent alone.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const count = (value) => value.toLocaleString("en");
  const figure = (value) => (value === undefined ? "–" : Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 }));

  function make(tag, kind, ...content) {
    const element = document.createElement(tag);
    if (kind) element.className = kind;
    element.append(...content.filter((part) => part !== null && part !== undefined));
    return element;
  }

  function words(tag, kind, text) {
    const element = make(tag, kind, text);
    element.dir = "auto";
    return element;
  }

  // Light and dark: as the system has it, until it is chosen here.

  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const follow = () => { root.dataset.theme = system.matches ? "dark" : "light"; };
  follow();
  system.addEventListener("change", follow);
  byId("theme").addEventListener("click", () => {
    system.removeEventListener("change", follow);
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  });

  window.addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("#filters details")) details.open = true;
  });

  // The map

  const perspectives = data.perspectives;
  const circles = new Map(); // by perspective

  function show(perspective) {
    for (const [other, circle] of circles) circle.classList.toggle("on", other === perspective);
    const panel = byId("perspective");
    const table = make("table");
    for (const [name, mentions, description] of perspective.members) {
      const row = table.insertRow();
      row.insertCell().append(words("span", "", name));
      row.insertCell().append(count(mentions));
      row.title = description;
    }
    const examples = perspective.examples.map(([text, value]) => words("blockquote", "", make("span", "", text ?? "", make("footer", "", value ?? ""))));
    const told = [`${count(perspective.mentions)} mentions`, `${count(perspective.kept)} kept samples`];
    if (perspective.share !== null) told.splice(1, 0, `${(100 * perspective.share).toFixed(1)} % of all`);
    if (perspective.coherence !== null) told.push(`coherence ${perspective.coherence.toFixed(2)}`);
    panel.replaceChildren(words("h3", "", perspective.head), make("p", "hint", told.join(" · ")), table);
    if (perspective.more) panel.append(make("p", "hint", `and ${count(perspective.more)} more attributes`));
    if (examples.length) panel.append(make("h4", "", "Texts that show it"), ...examples);
  }

  function startMap() {
    if (!byId("perspective")) return;
    const order = [];
    for (const perspective of perspectives) {
      const circle = byId(`perspective-${perspective.place}`);
      if (!circle) continue;
      circles.set(perspective, circle);
      order.push(perspective);
      circle.setAttribute("role", "button");
      circle.setAttribute("aria-label", `${perspective.head}, ${count(perspective.mentions)} mentions`);
      circle.setAttribute("tabindex", order.length === 1 ? "0" : "-1");
      for (const kind of ["mouseenter", "focus", "click"]) circle.addEventListener(kind, () => show(perspective));
      circle.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const next = order[(order.indexOf(perspective) + step + order.length) % order.length];
        circle.setAttribute("tabindex", "-1");
        circles.get(next).setAttribute("tabindex", "0");
        circles.get(next).focus();
      });
    }
    if (perspectives.length) show(perspectives[0]);
    byId("attribute").addEventListener("input", findAttribute);
  }

  const MOST_NAMES = 40;

  function findAttribute() {
    const wanted = byId("attribute").value.trim().toLowerCase();
    const found = [];
    if (wanted) {
      for (const perspective of perspectives) {
        for (const [name, mentions] of perspective.members) {
          if (name.toLowerCase().includes(wanted)) found.push([name, mentions, perspective]);
        }
      }
    }
    byId("attribute-list").replaceChildren(...found.slice(0, MOST_NAMES).map(([name, mentions, perspective]) => {
      const button = words("button", "", `${name} (${count(mentions)})`);
      button.type = "button";
      button.addEventListener("click", () => show(perspective));
      return make("li", "", button);
    }));
    byId("attribute-found").textContent = wanted ? `${count(found.length)} found` : "";
  }

  // Coverage

  function startMatrix() {
    const matrix = data.matrix;
    if (!matrix) return;
    const draw = () => drawMatrix(matrix, byId("domain").value, Number(byId("step").value));
    byId("domain").addEventListener("change", draw);
    byId("step").addEventListener("change", draw);
    draw();
  }

  function drawMatrix(matrix, domain, step) {
    const sums = new Map(); // perspective,type -> [paired, left]
    for (const [perspective, type, place, ...steps] of matrix.cells) {
      if (domain !== "" && place !== Number(domain)) continue;
      const sum = sums.get(`${perspective},${type}`) ?? [0, 0];
      sums.set(`${perspective},${type}`, [sum[0] + steps[0], sum[1] + steps[step]]);
    }
    const possible = new Set(matrix.possible.map(String));
    const most = Math.max(1, ...[...sums.values()].map((sum) => sum[1]));
    const head = make("tr", "", make("th", "", "perspective"), ...matrix.names.task_type.map((type) => make("th", "", type)));
    let empty = 0;
    const rows = matrix.names.perspective.map((perspective, row) => {
      const name = words("th", "", perspective);
      name.scope = "row";
      const cells = matrix.names.task_type.map((_, column) => {
        const key = `${row},${column}`;
        const [paired, left] = sums.get(key) ?? [0, 0];
        if (!possible.has(key)) return make("td", "none", "–");
        const lost = paired > 0 && left === 0;
        empty += lost;
        const cell = make("td", lost ? "empty" : "", make("small", "", `${count(paired)} → `), count(left));
        cell.style.setProperty("--share", String(left / most));
        return cell;
      });
      return make("tr", "", name, ...cells);
    });
    for (const cell of head.cells) cell.scope = "col";
    byId("matrix").replaceChildren(make("thead", "", head), make("tbody", "", ...rows));
    byId("coverage-empty").textContent = empty ? `${count(empty)} cells lost all their samples` : "No cell lost all its samples";
  }

  // Browsers: rows that are searched, filtered and shown a page at a time

  const PAGE = 12;

  class Browser {
    constructor(name, rows, card, choices) {
      this.name = name;
      this.rows = rows;
      this.card = card;
      this.page = 0;
      this.tools = document.querySelector(`[data-browser=${name}]`);
      this.texts = rows.map((row) => JSON.stringify(row).toLowerCase());
      for (const [key, label] of Object.entries(choices)) this.fill(this.tools.querySelector(`[name=${key}]`), key, label);
      this.tools.addEventListener("input", () => this.search());
      this.search();
    }

    fill(select, key, label) {
      const values = [...new Set(this.rows.map((row) => String(row[key] ?? "")))].sort();
      select.append(new Option("all", ""), ...values.filter(Boolean).map((value) => new Option(label(value), value)));
    }

    wanted(name) {
      return this.tools.querySelector(`[name=${name}]`)?.value ?? "";
    }

    search() {
      const terms = this.wanted("words").toLowerCase().split(/\s+/).filter(Boolean).map((term) => JSON.stringify(term).slice(1, -1));
      const filters = [...this.tools.querySelectorAll("select:not([name=order])")].filter((select) => select.value);
      this.found = this.rows.filter((row, index) =>
        terms.every((term) => this.texts[index].includes(term)) && filters.every((select) => String(row[select.name] ?? "") === select.value));
      const order = this.wanted("order");
      if (order) {
        const key = order.replace("-", "");
        const sign = order.startsWith("-") ? -1 : 1;
        const lacks = (row) => Number(row[key] === undefined); // these come last
        this.found.sort((one, other) => lacks(one) - lacks(other) || sign * (one[key] - other[key]) || 0);
      }
      this.show(0);
    }

    show(page) {
      this.page = page;
      const start = page * PAGE;
      byId(`${this.name}-list`).replaceChildren(...this.found.slice(start, start + PAGE).map(this.card));
      const last = Math.min(start + PAGE, this.found.length);
      byId(`${this.name}-found`).textContent = this.found.length ? `${count(start + 1)} to ${count(last)} of ${count(this.found.length)}` : "Nothing found";
      const turn = (label, step, possible) => {
        const button = make("button", "", label);
        button.type = "button";
        button.disabled = !possible;
        button.addEventListener("click", () => { this.show(page + step); byId(this.name).scrollIntoView(); });
        return button;
      };
      byId(`${this.name}-pager`).replaceChildren(turn("← Back", -1, page > 0), turn("On →", 1, last < this.found.length));
    }

    find(key, value) {
      for (const select of this.tools.querySelectorAll("select")) select.value = "";
      this.tools.querySelector("[name=words]").value = value;
      this.search();
    }
  }

  function list(pairs) {
    const element = make("dl");
    for (const [name, value] of pairs) {
      if (value !== undefined && value !== "") element.append(make("dt", "", name), words("dd", "", String(value)));
    }
    return element;
  }

  function fold(title, ...content) {
    return make("details", "", make("summary", "", title), ...content);
  }

  function sampleCard(row) {
    const shown = [["difficulty", row.difficulty], ["perplexity", row.perplexity], ["IFD", row.ifd], ["tokens", row.output_tokens]];
    const scores = shown.filter(([, value]) => value !== undefined).map(([name, value]) => `${name} ${figure(value)}`);
    const button = make("button", "", "Its instruction");
    button.type = "button";
    button.addEventListener("click", () => { browsers.instructions.find("instruction_id", row.instruction_id); byId("instructions").scrollIntoView(); });
    const card = make("article", "card",
      make("h3", "", make("span", row.fate === "kept" ? "fate kept" : "fate", row.fate), make("span", "", row.task_type ?? ""), words("span", "", row.task ?? ""), words("span", "hint", row.perspective ?? "")),
      words("p", "", row.prompt ?? "(the gate keeps its words back)"),
      words("p", "answer", row.output ?? ""),
      make("p", "scores", scores.join(" · ")),
      fold("Lineage and decision", list([
        ["sample", row.sample_id], ["text", row.text_id], ["domain", row.domain], ["instruction", row.instruction_id], ["teacher call", row.call_id],
        ["attempts", row.attempts], ["check", [row.status, row.invalid].filter(Boolean).join(": ")], ["nearest kept", row.nearest_id && `${row.nearest_id}, cosine ${row.nearest_similarity.toFixed(3)}`],
        ["decision", row.reason], ["probability of being kept", row.probability?.toFixed(4)], ["draw", row.draw?.toFixed(4)], ["audit", row.audit],
      ]), byId("instructions") ? button : null));
    card.id = row.sample_id;
    return card;
  }

  function instructionCard(row) {
    const shots = (name, title) => row[name] ? fold(`${title} (${row.known[name]})`, ...row[name].map(([text, output]) => words("blockquote", "", make("span", "", text, make("footer", "", output))))) : null;
    const lineage = row.lineage ?? {};
    const told = row.paired === undefined ? "" : `${count(row.paired)} samples, ${count(row.valid)} valid, ${count(row.chosen)} kept${row.difficulty === undefined ? "" : `, mean difficulty ${figure(row.difficulty)}`}`;
    const button = make("button", "", "Its samples");
    button.type = "button";
    button.addEventListener("click", () => { browsers.samples.find("instruction_id", row.instruction_id); byId("samples").scrollIntoView(); });
    return make("article", "card",
      make("h3", "", make("span", row.kept ? "fate kept" : "fate", row.kept ? "kept" : "dropped"), make("span", "", row.task_type ?? ""), words("span", "", row.name ?? ""), words("span", "hint", row.perspective ?? "")),
      words("p", "", row.instruction ?? ""),
      row.reason ? words("p", "hint", `dropped: ${row.reason}`) : null,
      make("p", "scores", told),
      shots("examples", "Examples"), shots("demos", "Demonstrations"),
      fold("Lineage", list([
        ["instruction", row.instruction_id], ["labels", row.labels?.join(", ")], ["scale", row.scale?.join(" to ")], ["schema", row.schema], ["exact words", row.verbatim ? "yes" : undefined],
        ["attributes", lineage.attributes?.join(", ")], ["teacher", lineage.model], ["revision", lineage.revision], ["teacher calls", lineage.calls?.join(" ")], ["edited by a person", lineage.edited ? "yes" : undefined],
      ]), row.paired && byId("samples") ? button : null));
  }

  const same = (value) => value;
  const browsers = {};
  startMap();
  startMatrix();
  if (byId("instructions")) {
    browsers.instructions = new Browser("instructions", data.instructions, instructionCard, { task_type: same, perspective: same, kept: (value) => (value === "true" ? "kept" : "dropped") });
  }
  if (byId("samples")) {
    browsers.samples = new Browser("samples", data.samples, sampleCard, { fate: same, task_type: same, perspective: same, domain: same });
  }
  root.dataset.ready = "yes"; // for whoever waits for it
})();
