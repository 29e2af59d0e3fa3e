"use strict";
// The page's own script: figures, filters, the list of pairs and the pair that is read.
// Model texts are hostile: they enter the document through text nodes only, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 50;
  const STAGES = ["conservative", "moderate", "exploratory"];
  const FILTERS = ["stage", "task", "domain", "split", "findings", "change"];
  const SORTS = {
    "largest gap": (a, b) => b.gap - a.gap,
    "smallest gap": (a, b) => a.gap - b.gap,
    "near a threshold": (a, b) => distance(a) - distance(b),
    "riskiest chosen": (a, b) => risk(b) - risk(a),
  };
  const RISK = data.scores.findIndex(([name]) => name === "value_risk");
  const U = data.scores.findIndex(([name]) => name === "u");
  const TOP = { value_uncertainty: Math.LN2, value_disagreement: Math.LN2 };
  const state = { query: "", range: null, sort: Object.keys(SORTS)[0], found: [], at: 0 };
  FILTERS.forEach((name) => (state[name] = ""));

  const byId = (id) => document.getElementById(id);
  const list = byId("list"), article = byId("pair"), form = byId("filters");

  const distance = (pair) => Math.min(...Object.values(data.thresholds).map((t) => Math.abs(pair.gap - t)));
  const risk = (pair) => pair.answers[pair.chosen].scores[RISK] ?? -1;
  const number = (value, digits = 3) => (value === null ? "–" : value.toFixed(digits));
  const signed = (value) => (value > 0 ? "+" : "") + number(value);
  const count = (n) => n.toLocaleString("en");
  const lower = (text) => text.toLowerCase();

  /** Make an element; a string child becomes a text node, so no text is ever read as markup. */
  function el(tag, attributes = {}, ...children) {
    const space = ["svg", "rect", "circle", "line", "text"].includes(tag) ? "http://www.w3.org/2000/svg" : null;
    const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children.filter((child) => child !== null));
    return node;
  }

  // ---- Filters ------------------------------------------------------------------------------------------------------

  const valuesOf = (pair, name) => (name === "findings" ? pair.findings : pair[name] ? [pair[name]] : []);

  function haystack(pair) {
    pair.words ??= lower([pair.id, ...pair.prompt.map((m) => m[1]), ...pair.answers.map((a) => a.text)].join("\n"));
    return pair.words;
  }

  function apply() {
    const words = lower(state.query).split(/\s+/).filter(Boolean);
    const wanted = FILTERS.filter((name) => state[name]);
    state.found = data.pairs
      .filter(
        (pair) =>
          wanted.every((name) => valuesOf(pair, name).includes(state[name])) &&
          (!state.range || (pair.gap >= state.range[0] && pair.gap <= state.range[1])) &&
          words.every((word) => haystack(pair).includes(word)),
      )
      .sort((a, b) => SORTS[state.sort](a, b) || (a.id < b.id ? -1 : 1));
    select(0);
  }

  function field(label, control) {
    return el("label", {}, el("span", {}, label), control);
  }

  function choices(name, options) {
    const control = el("select", { name }, ...options.map(([value, shown]) => el("option", { value }, shown)));
    control.addEventListener("change", () => {
      state[name] = control.value;
      apply();
    });
    return control;
  }

  function filterBar() {
    const search = el("input", { type: "search", name: "query", placeholder: "words of a text, or an id",
      autocomplete: "off", spellcheck: "false" });
    let waiting;
    search.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        state.query = search.value;
        apply();
      }, 100);
    });
    const fields = [field("search", search)];
    fields[0].className = "search";
    for (const name of FILTERS) {
      const counts = new Map();
      data.pairs.forEach((pair) => valuesOf(pair, name).forEach((v) => counts.set(v, (counts.get(v) ?? 0) + 1)));
      if (counts.size < (["findings", "change"].includes(name) ? 1 : 2)) continue;
      const names = [...counts.keys()].sort((a, b) => STAGES.indexOf(a) - STAGES.indexOf(b) || (a < b ? -1 : 1));
      const options = names.map((value) => [value, `${value} (${count(counts.get(value))})`]);
      fields.push(field(name === "findings" ? "finding" : name, choices(name, [["", "all"], ...options])));
    }
    fields.push(field("order", choices("sort", Object.keys(SORTS).map((name) => [name, name]))));
    form.append(...fields);
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  function setRange(range) {
    state.range = range;
    const button = byId("range");
    button.hidden = !range;
    button.textContent = range ? `gap ${number(range[0])} to ${number(range[1])} ×` : "";
    apply();
  }

  function reset() {
    for (const control of form.elements) {
      if (control.name === "sort") continue;
      if (control.name) state[control.name] = control.value = "";
    }
    clearRange();
    apply();
    form.elements.query.focus();
  }

  // ---- The list -----------------------------------------------------------------------------------------------------

  function select(at, show = true) {
    state.at = Math.max(0, Math.min(at, state.found.length - 1));
    const start = Math.floor(state.at / PAGE) * PAGE;
    const shown = state.found.slice(start, start + PAGE);
    list.replaceChildren(...shown.map((pair, index) => option(pair, start + index)));
    const whole = data.pairs.length;
    byId("count").textContent = state.found.length === whole ? `${count(whole)} pairs` :
      `${count(state.found.length)} of ${count(whole)} pairs`;
    byId("span").textContent = shown.length ? `${count(start + 1)} to ${count(start + shown.length)}` : "";
    byId("previous").disabled = start === 0;
    byId("next").disabled = start + PAGE >= state.found.length;
    const current = list.querySelector("[aria-selected=true]");
    if (current) {
      list.setAttribute("aria-activedescendant", current.id);
      const top = current.offsetTop - list.offsetTop;
      if (top < list.scrollTop) list.scrollTop = top;
      else if (top + current.offsetHeight > list.scrollTop + list.clientHeight) {
        list.scrollTop = top + current.offsetHeight - list.clientHeight;
      }
    } else {
      list.removeAttribute("aria-activedescendant");
      list.append(el("li", { class: "empty" }, "No pair fits these filters. Clear one of them, or all."));
    }
    if (show) read(state.found[state.at]);
  }

  function option(pair, at) {
    const first = pair.prompt.at(-1)[1].slice(0, 160);
    const node = el("li", { id: `o${at}`, role: "option", "aria-selected": String(at === state.at) },
      el("span", { class: `tag ${pair.stage}`, title: pair.stage }, ""),
      el("span", { class: "first", dir: "auto" }, first || "(empty)"),
      el("span", { class: "gap" }, number(pair.gap)),
      el("span", { class: "about" }, [pair.stage, pair.task, pair.domain].join(", ") + (pair.change && pair.change !== "same" ? `, ${pair.change}` : "")));
    node.addEventListener("click", () => select(at));
    return node;
  }

  const steps = () => ({ ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -state.at, End: state.found.length });

  list.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && state.found.length) article.focus();
    else if (event.key in steps()) select(state.at + steps()[event.key]);
    else return;
    event.preventDefault();
  });
  byId("previous").addEventListener("click", () => select((Math.floor(state.at / PAGE) - 1) * PAGE));
  byId("next").addEventListener("click", () => select((Math.floor(state.at / PAGE) + 1) * PAGE));
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") form.elements.query.focus();
    else if (event.key === "j") select(state.at + 1);
    else if (event.key === "k") select(state.at - 1);
    else return;
    event.preventDefault();
  });

  // ---- One pair -----------------------------------------------------------------------------------------------------

  /** A text with the words that were searched for marked. */
  function marked(text) {
    const words = state.query.split(/\s+/).filter(Boolean).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    if (!words.length) return [text];
    return text.split(new RegExp(`(${words.join("|")})`, "gi")).map((part, i) => (i % 2 ? el("mark", {}, part) : part));
  }

  function box(label, text, length) {
    const node = el("div", { class: "text", dir: "auto", role: "group", "aria-label": label, tabindex: "0" },
      ...(text ? marked(text) : [el("span", { class: "soft" }, "(empty)")]));
    if (length > text.length && length > 20000) node.append(el("p", { class: "note" }, `… cut here; ${count(length)} characters in all`));
    return node;
  }

  function bar(value, name) {
    if (value === null) return null;
    const width = 100 * Math.min(Math.max(value / (TOP[name] ?? 1), 0), 1);
    return el("svg", { class: "bar", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
      el("rect", { class: "track", width: "100", height: "6" }), el("rect", { class: "fill", width, height: "6" }));
  }

  function table(caption, heads, rows, name = "") {
    const head = el("tr", {}, ...heads.map(([text, kind]) => el("th", { scope: "col", class: kind ?? "" }, text)));
    return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      el("table", { class: name }, el("caption", {}, caption), el("thead", {}, head), el("tbody", {}, ...rows)));
  }

  const name = (index) => `answer ${index + 1}`;
  const role = (pair, i) => (i === pair.chosen ? "chosen" : i === pair.rejected ? "rejected" : "other");

  /** All answers on the line of u, with the gap between the two of the pair. */
  function line(pair) {
    const placed = pair.answers.map((a, i) => [i, a.scores[U]]).filter(([, u]) => u !== null);
    const x = (u) => 4 + 92 * u;
    const [low, high] = [pair.chosen, pair.rejected].map((i) => x(pair.answers[i].scores[U]));
    const order = placed.sort(([a], [b]) => (role(pair, b) === "other") - (role(pair, a) === "other"));
    return el("svg", { class: "line", role: "img", "aria-label": `u of all answers; gap ${number(pair.gap)}` },
      el("line", { class: "axis", x1: "4%", x2: "96%", y1: 24, y2: 24 }),
      el("line", { class: "span", x1: `${low}%`, x2: `${high}%`, y1: 24, y2: 24 }),
      ...order.map(([i, u]) => el("circle", { class: role(pair, i), cx: `${x(u)}%`, cy: 24, r: role(pair, i) === "other" ? 5 : 7 })),
      ...[[low, "chosen"], [high, "rejected"]].map(([at, text], i) =>
        el("text", { x: `${at}%`, y: i ? 48 : 12, "text-anchor": at > 85 ? "end" : at < 15 ? "start" : "middle" }, text)),
      el("text", { class: "end", x: "4%", y: 48, "text-anchor": "start" }, high < 30 ? "" : "u = 0, certain"),
      el("text", { class: "end", x: "96%", y: 12, "text-anchor": "end" }, low > 70 ? "" : "u = 1, uncertain"));
  }

  function scoreRow(pair, [id, words, unit], i) {
    const share = id === "u" ? pair.gap : pair.shares[id.replace("_uncertainty", "")];
    const values = [pair.chosen, pair.rejected].map((at) => pair.answers[at].scores[i]);
    return el("tr", { class: id === "u" ? "total" : "" },
      el("th", { scope: "row" }, words, el("span", { class: "note" }, ` ${unit}`)),
      ...values.map((v) => el("td", { class: "score" }, number(v), i < data.num_main ? bar(v, id) : null)),
      ...(i < data.num_main ? [el("td", { class: "n" }, share === undefined ? "" : signed(share))] : []));
  }

  function comparison(pair) {
    const rows = data.scores.map((score, i) => scoreRow(pair, score, i));
    const heads = [["measure"], ["chosen"], ["rejected"]];
    return [
      table("Scores, and what each dimension adds to the gap", [...heads, ["of the gap", "n"]], rows.slice(0, data.num_main)),
      el("details", {}, el("summary", {}, "Other estimators, not part of u"),
        table("Other estimators of both answers", heads, rows.slice(data.num_main))),
    ];
  }

  function overview(pair) {
    const heads = [["answer"], ["set", "n"], ["u", "n"], ["semantic", "n"], ["factual", "n"], ["value", "n"], ["risk", "n"], ["tokens", "n"], ["what became of it"]];
    const main = [U, ...["semantic_uncertainty", "factual_uncertainty", "value_uncertainty", "value_risk"]
      .map((id) => data.scores.findIndex(([found]) => found === id))];
    const rows = pair.answers.map((a, i) => el("tr", { class: role(pair, i) },
      el("th", { scope: "row", class: "name" }, name(i)), el("td", { class: "n" }, String(a.set)),
      ...main.map((s) => el("td", { class: `n${s === RISK && a.scores[s] > data.risk_ceiling ? " worse" : ""}` }, number(a.scores[s]))),
      el("td", { class: "n" }, String(a.tokens)), el("td", { class: "standing" }, a.standing)));
    return table(`All ${pair.answers.length} answers, the most certain first; a set is answers of one meaning`, heads, rows, "all");
  }

  /** Which sentences the other answers support, and what the judge says of each principle. */
  function evidence(answer) {
    const parts = [];
    if (answer.claims.length) {
      parts.push(table("Its sentences, and how little the other answers support each (unsupported, 0 to 1)",
        [["sentence"], ["unsupported"]],
        answer.claims.map(([text, value]) => el("tr", { class: value > 0.5 ? "unsupported" : "" },
          el("td", { class: "wide", dir: "auto" }, text), el("td", { class: "score" }, number(value), bar(value, ""))))));
    } else if (answer.unclaimed) {
      parts.push(el("p", { class: "note" }, `No factual uncertainty: ${answer.unclaimed}.`));
    }
    if (answer.acceptable.length) {
      parts.push(table("What the judge says: the probability that the answer respects the principle",
        [["principle"], ["acceptable"]],
        answer.acceptable.map((p, i) => el("tr", {}, el("td", { class: "wide" }, data.principles[i] ?? `principle ${i + 1}`),
          el("td", { class: "score" }, number(p), bar(p, ""))))));
    }
    return parts;
  }

  function answerText(pair, i) {
    const answer = pair.answers[i];
    const parts = evidence(answer);
    return el("section", { class: `answer ${role(pair, i)}` },
      el("h5", {}, name(i), el("span", { class: "note" }, ` set ${answer.set}, ${answer.standing}${answer.cut && !answer.standing.includes("cut") ? ", cut at the token limit" : ""}`)),
      box(`${name(i)} of the pair`, answer.text, answer.length),
      ...(parts.length ? [el("details", {}, el("summary", {}, "Evidence: sentences and principles"), ...parts)] : []));
  }

  function read(pair) {
    if (!pair) {
      article.className = "pair";
      article.replaceChildren(el("p", { class: "soft" }, "Nothing to read: no pair fits these filters."));
      return;
    }
    const about = [pair.task, pair.domain, pair.source, pair.split].filter((v, i, all) => all.indexOf(v) === i).join(", ");
    const [low, high] = pair.interval;
    const side = (i, title) => el("div", { class: title.toLowerCase() }, el("h4", {}, title, el("span", { class: "note" }, ` ${name(i)}, u ${number(pair.answers[i].scores[U])}`)),
      box(`${title} answer`, pair.answers[i].text, pair.answers[i].length));
    article.className = `pair ${pair.stage}`;
    article.setAttribute("aria-label", `Pair ${pair.id.slice(0, 12)}`);
    article.replaceChildren(
      el("p", { class: "about" }, el("span", { class: `tag ${pair.stage}` }, pair.stage), ` ${about} `, el("code", {}, pair.id.slice(0, 16))),
      el("h3", {}, "Why it is in this stage"),
      el("p", { class: "why" }, pair.why, low === null ? "" : ` The gap's 95 % interval is ${number(low)} to ${number(high)}.`),
      line(pair),
      ...(pair.findings.length ? [el("p", { class: "note" }, "An example of: " + pair.findings.join(", "))] : []),
      ...(pair.change ? [el("p", { class: "note" }, `Against the older version: ${pair.change}`)] : []),
      el("h4", {}, "Prompt"),
      ...pair.prompt.map(([who, text, length]) => pair.prompt.length > 1
        ? el("div", {}, el("span", { class: "role" }, who), box(`Prompt, ${who}`, text, length)) : box("Prompt", text, length)),
      el("div", { class: "sides" }, side(pair.chosen, "Chosen"), side(pair.rejected, "Rejected")),
      ...comparison(pair),
      el("h3", {}, "All answers"),
      overview(pair),
      ...pair.answers.map((_, i) => answerText(pair, i)),
    );
    article.scrollTop = 0;
  }

  // ---- Figures ------------------------------------------------------------------------------------------------------

  let gapView = null;

  /** Take the brush off the gap; the figure then says that no range is left. */
  function clearRange() {
    if (!state.range) return;
    if (gapView) gapView.signal("brush_x", []).runAsync();
    setRange(null);
  }

  // The interpreter (ast) needs no eval, so the page's policy can forbid it.
  const OPTIONS = { ast: true, actions: false, defaultStyle: false, renderer: "svg", tooltip: { disableDefaultStyle: true, theme: "custom" } };

  async function draw(figure) {
    const spec = data.charts[figure.dataset.chart];
    if (figure.dataset.chart === "correlations" && figure.clientWidth < 640) spec.columns = 1;
    if (figure.dataset.chart === "gap") spec.width = Math.max(280, Math.min(figure.clientWidth - 90, 760));
    const { view } = await vegaEmbed(figure, spec, OPTIONS);
    if (figure.dataset.chart !== "gap") return;
    gapView = view;
    let waiting;
    view.addSignalListener("brush", (_, value) => {
      clearTimeout(waiting);
      waiting = setTimeout(() => setRange(value.low ?? null), 100);
    });
  }

  filterBar();
  byId("range").addEventListener("click", clearRange);
  byId("clear").addEventListener("click", reset);
  apply();
  document.querySelectorAll("figure[data-chart]").forEach(draw);
})();
