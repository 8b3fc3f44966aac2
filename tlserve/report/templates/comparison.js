// The plots and the sorting of a comparison page. No library, no network; names of users only ever become text nodes.
"use strict";
(() => {
  const { rows, fronts } = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const COSTS = {
    predict_ms: { label: "milliseconds per prediction", text: (v) => `${figures(v)} ms` },
    extract_seconds: { label: "seconds to extract all images", text: (v) => seconds(v) },
    graph_mb: { label: "size of the graph in MB", text: (v) => `${figures(v)} MB` },
  };
  let cost = "predict_ms";
  let log = false;
  let hot = null;

  // ---- words

  const figures = (v) => (v >= 100 ? Math.round(v).toLocaleString("en") : String(Number(v.toPrecision(3))));
  const percent = (v) => `${(v * 100).toFixed(1)} %`;
  const seconds = (v) => {
    if (v < 0.1) return `${figures(v * 1000)} ms`;
    if (v < 60) return `${figures(v)} s`;
    const whole = Math.round(v);
    return whole < 3600
      ? `${Math.floor(whole / 60)} min ${whole % 60} s`
      : `${Math.floor(whole / 3600)} h ${Math.round((whole % 3600) / 60)} min`;
  };

  // ---- drawing

  const draw = (parent, name, attributes = {}, text = "") => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    parent.append(node);
    return node;
  };
  const make = (parent, name, text = "") => {
    const node = document.createElement(name);
    node.textContent = text;
    parent.append(node);
    return node;
  };
  const clamp = (v, low, high) => Math.min(high, Math.max(low, v));

  // Round ticks that enclose the values.
  const ticks = (low, high, about) => {
    const raw = Math.max((high - low) / about, 1e-9);
    const size = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * size).find((s) => s >= raw * 0.999);
    const found = [];
    for (let n = Math.floor(low / step + 1e-9); n <= Math.ceil(high / step - 1e-9); n += 1) found.push(n * step);
    return found.length > 1 ? found : [found[0], found[0] + step];
  };
  const logTicks = (low, high) => {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1)
      for (const m of [1, 2, 5]) found.push(m * 10 ** power);
    const first = found.filter((v) => v <= low * 1.0001).pop() ?? found[0];
    const last = found.find((v) => v >= high * 0.9999) ?? found[found.length - 1];
    const kept = found.filter((v) => v >= first && v <= last);
    return kept.length > 1 ? kept : [kept[0] / 2, kept[0]];
  };

  const priced = () => rows.filter((r) => r[cost] !== null && (!log || r[cost] > 0));
  const onFront = (r) => fronts[cost].includes(r.backbone);
  const classes = (r, kind) =>
    [kind, onFront(r) && "on", r.is_choice && "best", r.backbone === hot && "hot"].filter(Boolean).join(" ");
  const said = (r) => {
    const spread = r.accuracy_low === null ? "" : `, 95 % interval ${percent(r.accuracy_low)} to ${percent(r.accuracy_high)}`;
    return `${r.backbone}: accuracy ${percent(r.accuracy)}${spread}; ${COSTS[cost].text(r[cost])}${onFront(r) ? "; no other is both better and cheaper" : ""}`;
  };

  const scatter = () => {
    const box = byId("scatter");
    box.replaceChildren();
    const shown = priced();
    if (!shown.length) {
      make(box, "p", "This cost was not measured.");
      return;
    }
    const width = clamp(box.clientWidth || 640, 300, 760);
    const height = clamp(width * 0.62, 270, 430);
    const edge = { left: 64, right: 16, top: 16, bottom: 46 };
    const prices = shown.map((r) => r[cost]);
    const xTicks = log ? logTicks(Math.min(...prices), Math.max(...prices)) : ticks(0, Math.max(...prices), width < 480 ? 4 : 6);
    const lows = shown.map((r) => r.accuracy_low ?? r.accuracy);
    const highs = shown.map((r) => r.accuracy_high ?? r.accuracy);
    const yTicks = ticks(Math.min(...lows), Math.max(...highs), 5).filter((v) => v <= 1.0001 && v >= -1e-9);
    const scaled = log ? Math.log10 : (v) => v;
    const [x0, x1] = [scaled(xTicks[0]), scaled(xTicks[xTicks.length - 1])];
    const [y0, y1] = [yTicks[0], Math.max(yTicks[yTicks.length - 1], ...highs)];
    const x = (v) => edge.left + ((scaled(v) - x0) / (x1 - x0 || 1)) * (width - edge.left - edge.right);
    const y = (v) => height - edge.bottom - ((v - y0) / (y1 - y0 || 1)) * (height - edge.top - edge.bottom);

    const svg = draw(box, "svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "group" });
    svg.setAttribute("aria-label", `Accuracy against ${COSTS[cost].label}`);
    for (const v of yTicks) {
      draw(svg, "line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(v), y2: y(v) });
      draw(svg, "text", { x: edge.left - 8, y: y(v) + 4, "text-anchor": "end" }, `${Number((v * 100).toFixed(1))} %`);
    }
    let lastTick = -Infinity;
    for (const v of xTicks) {
      if (x(v) - lastTick < 34) continue;
      lastTick = x(v);
      draw(svg, "text", { x: x(v), y: height - edge.bottom + 18, "text-anchor": "middle" }, figures(v));
    }
    draw(svg, "text", { class: "label", x: (edge.left + width - edge.right) / 2, y: height - 6, "text-anchor": "middle" }, COSTS[cost].label);
    draw(svg, "text", { class: "label", transform: `translate(12 ${(height - edge.bottom + edge.top) / 2}) rotate(-90)`, "text-anchor": "middle" }, "accuracy");

    const front = fronts[cost].map((name) => shown.find((r) => r.backbone === name)).filter(Boolean);
    draw(svg, "path", { class: "front", d: front.map((r, n) => (n ? `H${x(r[cost])}V${y(r.accuracy)}` : `M${x(r[cost])} ${y(r.accuracy)}`)).join("") });
    const taken = shown.map((r) => ({ left: x(r[cost]) - 7, right: x(r[cost]) + 7, top: y(r.accuracy) - 7, bottom: y(r.accuracy) + 7 }));
    const byWorth = [...shown].sort((a, b) => b.is_choice - a.is_choice || onFront(b) - onFront(a));
    for (const r of byWorth) point(svg, r, x(r[cost]), y);
    for (const r of byWorth) name(svg, r, x(r[cost]), y(r.accuracy), taken, width - 4);
  };

  const point = (svg, r, px, y) => {
    const group = draw(svg, "g", { class: classes(r, "point"), tabindex: 0, role: "img", "data-backbone": r.backbone });
    group.setAttribute("aria-label", said(r));
    const py = y(r.accuracy);
    if (r.accuracy_low !== null) {
      const [bottom, top] = [y(r.accuracy_low), y(r.accuracy_high)];
      draw(group, "path", { class: "reach", d: `M${px} ${bottom}V${top}M${px - 4} ${bottom}h8M${px - 4} ${top}h8` });
    }
    draw(group, "circle", { class: "dot", cx: px, cy: py, r: 5.5 });
    draw(group, "circle", { class: "hit", cx: px, cy: py, r: 14 });
    listen(group, r);
  };

  // Beside its mark, in the first place where it covers no other; left out where there is none.
  const name = (svg, r, px, py, taken, rightEdge) => {
    const long = r.backbone.length > 26 ? `${r.backbone.slice(0, 25)}…` : r.backbone;
    const wide = long.length * 6.8;
    const places = [
      [px + 11, py + 4, "start"], [px - 11, py + 4, "end"], [px + 9, py - 10, "start"], [px + 9, py + 18, "start"],
      [px - 9, py - 10, "end"], [px - 9, py + 18, "end"], [px + 9, py - 24, "start"], [px + 9, py + 32, "start"],
    ];
    for (const [at, base, anchor] of places) {
      const left = anchor === "start" ? at : at - wide;
      const spot = { left, right: left + wide, top: base - 11, bottom: base + 3 };
      const free = left > 66 && spot.right < rightEdge && spot.top > 2
        && taken.every((t) => spot.right < t.left || spot.left > t.right || spot.bottom < t.top || spot.top > t.bottom);
      if (!free) continue;
      taken.push(spot);
      const label = draw(svg, "text", { class: classes(r, "name"), x: at, y: base, "text-anchor": anchor, "data-backbone": r.backbone }, long);
      label.setAttribute("aria-hidden", "true");
      listen(label, r);
      return;
    }
  };

  const bars = () => {
    const box = byId("bars");
    box.replaceChildren();
    const shown = rows.filter((r) => r[cost] !== null).sort((a, b) => a[cost] - b[cost]);
    byId("bars-caption").textContent = shown.length ? `${COSTS[cost].label[0].toUpperCase()}${COSTS[cost].label.slice(1)}, the cheapest first` : "";
    if (!shown.length) return;
    const width = clamp(box.clientWidth || 900, 300, 960);
    const names = clamp(Math.max(...shown.map((r) => r.backbone.length)) * 7.6 + 14, 60, width * 0.42);
    const room = Math.floor(names / 7.6);
    const [values, tall] = [96, 26];
    const most = Math.max(...shown.map((r) => r[cost])) || 1;
    const svg = draw(box, "svg", { class: "plot", viewBox: `0 0 ${width} ${shown.length * tall}`, role: "group" });
    svg.setAttribute("aria-label", COSTS[cost].label);
    shown.forEach((r, n) => {
      const group = draw(svg, "g", { class: classes(r, "row"), "data-backbone": r.backbone, role: "img" });
      group.setAttribute("aria-label", `${r.backbone}: ${COSTS[cost].text(r[cost])}`);
      const short = r.backbone.length > room ? `${r.backbone.slice(0, room - 1)}…` : r.backbone;
      draw(group, "text", { class: "name", x: names - 10, y: n * tall + 17, "text-anchor": "end" }, short);
      const long = Math.max(2, ((width - names - values) * r[cost]) / most);
      draw(group, "rect", { class: "fill", x: names, y: n * tall + 5, width: long, height: tall - 10, rx: 3 });
      draw(group, "text", { x: names + long + 8, y: n * tall + 17 }, COSTS[cost].text(r[cost]));
      draw(group, "rect", { class: "hit", x: 0, y: n * tall, width, height: tall });
      listen(group, r);
    });
  };

  // ---- one backbone in focus, everywhere at once

  const listen = (node, r) => {
    for (const event of ["mouseenter", "focus", "click"]) node.addEventListener(event, () => light(r.backbone));
  };
  const light = (backbone) => {
    hot = backbone;
    for (const node of document.querySelectorAll("[data-backbone]")) node.classList.toggle("hot", node.dataset.backbone === backbone);
    tell(rows.find((r) => r.backbone === backbone));
  };
  const tell = (r) => {
    const box = byId("details");
    box.replaceChildren();
    if (!r) return;
    make(box, "h3", r.backbone);
    const list = make(box, "dl");
    list.className = "facts";
    const fact = (name, value) => {
      if (value === null || value === "") return;
      make(list, "dt", name);
      make(list, "dd", value);
    };
    fact("accuracy", percent(r.accuracy));
    fact("interval", r.accuracy_low === null ? null : `${(r.accuracy_low * 100).toFixed(1)} to ${percent(r.accuracy_high)}`);
    for (const [name, key] of [["prediction", "predict_ms"], ["extraction", "extract_seconds"], ["graph", "graph_mb"]])
      fact(name, r[key] === null ? null : COSTS[key].text(r[key]));
    fact("training", r.train_seconds === null ? null : seconds(r.train_seconds));
    fact("head", r.head);
    fact("licence", r.licence || "not stated");
    if (onFront(r)) make(box, "p", "No other is both better and cheaper.").className = "small muted";
  };

  // ---- table

  const sortBy = (heading) => {
    const { key } = heading.dataset;
    const down = heading.getAttribute("aria-sort") === "ascending" || (!heading.hasAttribute("aria-sort") && key === "accuracy");
    for (const other of document.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const column = [...heading.parentNode.children].indexOf(heading);
    const isText = ["backbone", "head", "licence"].includes(key);
    const attribute = `data-${key.replaceAll("_", "-")}`;
    const value = (row) => (isText ? (row.cells[column]?.textContent ?? "") : Number(row.getAttribute(attribute)));
    const missing = (row) => row.cells.length < 3 || (!isText && !row.hasAttribute(attribute));
    const body = document.querySelector("table.sortable tbody");
    const order = [...body.rows].sort((a, b) => {
      if (missing(a) !== missing(b)) return missing(a) ? 1 : -1;
      const [one, two] = down ? [value(b), value(a)] : [value(a), value(b)];
      return isText ? String(one).localeCompare(String(two)) : one - two;
    });
    body.append(...order);
  };

  const copy = async (button) => {
    const { command } = button.dataset;
    try {
      await navigator.clipboard.writeText(command);
    } catch {
      const area = make(document.body, "textarea", command);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    byId("said").textContent = `Copied: ${command}`;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };

  // ---- beginning

  const redraw = () => {
    scatter();
    bars();
  };
  for (const heading of document.querySelectorAll("th[data-key]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => sortBy(heading));
  }
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }
  document.querySelector(".sort-hint").hidden = false;
  for (const row of document.querySelectorAll("tr[data-backbone]")) row.addEventListener("mouseenter", () => light(row.dataset.backbone));
  if (!rows.length) return;
  byId("plots").hidden = false;
  const controls = document.querySelector(".controls");
  controls.addEventListener("change", () => {
    cost = controls.elements.cost.value;
    log = controls.elements.log.checked;
    redraw();
    tell(rows.find((r) => r.backbone === hot));
  });
  const measured = Object.keys(COSTS).find((name) => rows.some((r) => r[name] !== null));
  for (const input of controls.elements.cost) {
    input.disabled = !rows.some((r) => r[input.value] !== null);
    input.checked = input.value === measured;
  }
  cost = measured ?? cost;
  hot = (rows.find((r) => r.is_choice) ?? rows[0]).backbone;
  redraw();
  light(hot);
  let waiting;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 100);
  });
})();
