"use strict";
(() => {
  const box = { left: 58, right: 428, top: 10, bottom: 286 }; // the frame inside every chart, as svg.py draws it
  const ns = "http://www.w3.org/2000/svg";
  const make = (name, attributes, text) => {
    const node = document.createElementNS(ns, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };

  // Light and dark: the reader's choice wins over the system's, and lasts where storage is allowed.
  const root = document.documentElement;
  const remember = (theme) => { try { localStorage.setItem("hepflow-theme", theme); } catch { /* a file may have no storage */ } };
  try { const kept = localStorage.getItem("hepflow-theme"); if (kept) root.dataset.theme = kept; } catch { /* as above */ }
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    remember(root.dataset.theme);
  });

  // Paper shows everything, in light colours.
  let before = null;
  addEventListener("beforeprint", () => {
    before = { theme: root.dataset.theme, closed: [...document.querySelectorAll("details:not([open])")] };
    root.dataset.theme = "light";
    before.closed.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => {
    if (!before) return;
    if (before.theme) root.dataset.theme = before.theme; else delete root.dataset.theme;
    before.closed.forEach((details) => { details.open = false; });
  });
  // A link to something inside closed details opens them.
  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  };
  addEventListener("hashchange", reveal);
  reveal();

  // Tables: a click on a heading sorts, the second the other way; numbers by value, equal ones as they were.
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    table.querySelectorAll("thead th").forEach((head, column) => {
      if (body.rows.length && [...body.rows].every((row) => row.cells[column].dataset.v !== undefined)) head.classList.add("n");
      head.firstElementChild.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending" || (!head.hasAttribute("aria-sort") && head.classList.contains("n"));
        const falling = head.getAttribute("aria-sort") === "descending" ? false : down;
        table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", falling ? "descending" : "ascending");
        const number = (text) => (text === "inf" ? Infinity : text === "-inf" ? -Infinity : Number(text));
        const order = (a, b) => {
          const [u, v] = [a.cells[column], b.cells[column]];
          if (u.dataset.v === undefined || v.dataset.v === undefined) return u.textContent.localeCompare(v.textContent, "en", { numeric: true });
          const [p, q] = [number(u.dataset.v), number(v.dataset.v)];
          return p === q ? 0 : p < q ? -1 : 1;
        };
        body.append(...[...body.rows].sort((a, b) => (falling ? order(b, a) : order(a, b))));
      });
    });
  }

  // Mark a table that is wider than the page, and let the arrow keys scroll it.
  for (const box_ of document.querySelectorAll(".scroll")) {
    const mark = () => {
      const wide = box_.scrollWidth > box_.clientWidth + 1;
      box_.parentElement.classList.toggle("more", wide && box_.scrollLeft + box_.clientWidth < box_.scrollWidth - 1);
      if (wide) box_.tabIndex = 0; else box_.removeAttribute("tabindex");
    };
    box_.addEventListener("scroll", mark, { passive: true });
    new ResizeObserver(mark).observe(box_); // also when the details around it open
    mark();
  }

  const axisOf = (svg, name) => {
    const [low, high, log] = svg.dataset[name].split(" ").map(Number);
    const [start, end] = name === "x" ? [box.left, box.right] : [box.bottom, box.top];
    const scale = (value) => (log ? Math.log10(Math.max(value, low * 1e-3)) : value);
    const [a, b] = [scale(low), scale(high)];
    return {
      log: Boolean(log), low, high,
      place: (value) => start + ((scale(value) - a) / (b - a)) * (end - start),
      value: (at) => { const s = a + ((at - start) / (end - start)) * (b - a); return log ? 10 ** s : s; },
    };
  };
  const round = (value) => (value === 0 ? "0" : Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5 ? value.toExponential(2) : Number(value.toPrecision(4)).toString());
  const steps = (low, high, log) => {
    if (log && Math.floor(Math.log10(high)) - Math.ceil(Math.log10(low)) >= 1) {
      const found = [];
      for (let power = Math.ceil(Math.log10(low) - 1e-9); power <= Math.log10(high) + 1e-9; power += 1) found.push(10 ** power);
      return found;
    }
    const raw = (high - low) / 5;
    const size = 10 ** Math.floor(Math.log10(raw));
    const step = size * [1, 2, 5, 10].reduce((best, m) => (Math.abs(m * size - raw) < Math.abs(best * size - raw) ? m : best), 1);
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n += 1) found.push(Number((n * step).toPrecision(12)));
    return found;
  };

  for (const figure of document.querySelectorAll("figure.chart")) {
    const canvas = figure.querySelector(".canvas");
    const data = JSON.parse(canvas.querySelector("script").textContent);
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    canvas.append(tip);
    const views = [...canvas.querySelectorAll("svg.chart")].map((svg) => view(svg, data, tip, figure.hasAttribute("data-zoom")));
    if (!figure.hasAttribute("data-zoom")) continue;
    const tools = document.createElement("div");
    tools.className = "tools screen";
    const button = (text, label, act) => {
      const node = document.createElement("button");
      node.type = "button";
      node.textContent = text;
      node.setAttribute("aria-label", label);
      node.addEventListener("click", () => act(node));
      tools.append(node);
      return node;
    };
    const shown = () => views.find((one) => !one.svg.hasAttribute("hidden"));
    button("+", "Zoom in", () => shown().zoomBy(0.5));
    button("−", "Zoom out", () => shown().zoomBy(2));
    button("reset", "Show all", () => shown().reset());
    if (views.length > 1) {
      const linear = button("linear", "Linear background axis", () => {
        views.forEach((one) => one.svg.toggleAttribute("hidden"));
        linear.setAttribute("aria-pressed", String(views[0].svg.hasAttribute("hidden")));
      });
      linear.setAttribute("aria-pressed", "false");
    }
    canvas.before(tools);
  }

  function view(svg, data, tip, zoomable) {
    const axes = { x: axisOf(svg, "x"), y: axisOf(svg, "y") };
    const full = { x0: box.left, x1: box.right, y0: box.top, y1: box.bottom };
    let window_ = { ...full }; // what of the full drawing is shown, in its own coordinates
    const curves = svg.querySelector(".curves");
    const ticks = svg.querySelector(".ticks");
    const hover = svg.querySelector(".hover");
    const toScreen = (x, y) => [
      box.left + ((x - window_.x0) / (window_.x1 - window_.x0)) * (box.right - box.left),
      box.top + ((y - window_.y0) / (window_.y1 - window_.y0)) * (box.bottom - box.top),
    ];
    const toFull = (x, y) => [
      window_.x0 + ((x - box.left) / (box.right - box.left)) * (window_.x1 - window_.x0),
      window_.y0 + ((y - box.top) / (box.bottom - box.top)) * (window_.y1 - window_.y0),
    ];
    const show = (next) => {
      const width = Math.min(Math.max(next.x1 - next.x0, 2e-3), box.right - box.left);
      const height = Math.min(Math.max(next.y1 - next.y0, 2e-3), box.bottom - box.top);
      const x0 = Math.min(Math.max(next.x0, box.left), box.right - width);
      const y0 = Math.min(Math.max(next.y0, box.top), box.bottom - height);
      window_ = { x0, x1: x0 + width, y0, y1: y0 + height };
      const [sx, sy] = [(box.right - box.left) / width, (box.bottom - box.top) / height];
      curves.setAttribute("transform", `matrix(${sx} 0 0 ${sy} ${box.left - sx * x0} ${box.top - sy * y0})`);
      curves.querySelectorAll("circle").forEach((dot) => dot.setAttribute("r", String(3.2 / Math.sqrt(sx * sy))));
      ticks.replaceChildren();
      const [left, right, low, high] = [axes.x.value(window_.x0), axes.x.value(window_.x1), axes.y.value(window_.y1), axes.y.value(window_.y0)];
      for (const value of steps(left, right, axes.x.log)) {
        const [at] = toScreen(axes.x.place(value), 0);
        ticks.append(make("line", { x1: at, x2: at, y1: box.top, y2: box.bottom }), make("text", { x: at, y: box.bottom + 15, "text-anchor": "middle" }, round(value)));
      }
      for (const value of steps(low, high, axes.y.log)) {
        const [, at] = toScreen(0, axes.y.place(value));
        ticks.append(make("line", { x1: box.left, x2: box.right, y1: at, y2: at }), make("text", { x: box.left - 6, y: at + 4, "text-anchor": "end" }, round(value)));
      }
    };
    const initial = ticks.innerHTML;
    const reset = () => { show(full); ticks.innerHTML = initial; };
    const zoomBy = (by) => {
      const [cx, cy] = [(window_.x0 + window_.x1) / 2, (window_.y0 + window_.y1) / 2];
      const [w, h] = [((window_.x1 - window_.x0) / 2) * by, ((window_.y1 - window_.y0) / 2) * by];
      if (w >= (box.right - box.left) / 2) reset(); else show({ x0: cx - w, x1: cx + w, y0: cy - h, y1: cy + h });
    };
    const at = (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      return [Math.min(Math.max(point.x, box.left), box.right), Math.min(Math.max(point.y, box.top), box.bottom)];
    };
    const clear = () => { hover.replaceChildren(); tip.hidden = true; };
    const point = (px) => {
      hover.replaceChildren(make("line", { x1: px, x2: px, y1: box.top, y2: box.bottom }));
      const x = axes.x.value(toFull(px, 0)[0]);
      const lines = [];
      for (const series of data.series) {
        const value = read(series, x);
        if (value === null) continue;
        const [sx, sy] = toScreen(axes.x.place(value.x), axes.y.place(value.y));
        if (sy >= box.top - 1 && sy <= box.bottom + 1) hover.append(make("circle", { cx: sx, cy: sy, r: 4, fill: `var(--${series.colour})` }));
        lines.push([series, value]);
      }
      tip.replaceChildren();
      const head = document.createElement("b");
      head.textContent = `${data.x} ${round(lines.length && data.series[0].style === "points" ? lines[0][1].x : x)}`;
      tip.append(head);
      for (const [series, value] of lines) {
        const row = document.createElement("div");
        const key = document.createElement("i");
        key.style.background = `var(--${series.colour})`;
        row.append(key, `${series.name.split(", AUC")[0]}: ${round(value.y)}${spread(value)}`);
        tip.append(row);
      }
      tip.hidden = lines.length === 0;
      const scale = svg.getBoundingClientRect().width / 440;
      const half = px > (box.left + box.right) / 2;
      tip.style.left = half ? "" : `${(px + 12) * scale}px`;
      tip.style.right = half ? `${(440 - px + 12) * scale}px` : "";
      tip.style.top = `${(box.top + 8) * scale}px`;
    };

    let start = null;
    svg.addEventListener("pointerdown", (event) => {
      if (!zoomable || event.pointerType === "touch") return; // a finger scrolls; it zooms by the buttons
      start = at(event);
      svg.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    svg.addEventListener("pointermove", (event) => {
      const [x, y] = at(event);
      if (!start) { point(x); return; }
      tip.hidden = true;
      const corner = { x: Math.min(x, start[0]), y: Math.min(y, start[1]), width: Math.abs(x - start[0]), height: Math.abs(y - start[1]) };
      hover.replaceChildren(make("rect", { class: "zoom", ...corner }));
    });
    svg.addEventListener("pointerup", (event) => {
      if (!start) { if (event.pointerType === "touch") point(at(event)[0]); return; }
      const end = at(event);
      const [a, b] = [toFull(...start), toFull(...end)];
      const large = Math.abs(end[0] - start[0]) > 8 && Math.abs(end[1] - start[1]) > 8;
      start = null;
      clear();
      if (large) show({ x0: Math.min(a[0], b[0]), x1: Math.max(a[0], b[0]), y0: Math.min(a[1], b[1]), y1: Math.max(a[1], b[1]) });
    });
    svg.addEventListener("pointerleave", () => { if (!start) clear(); });
    svg.addEventListener("dblclick", () => { if (zoomable) reset(); clear(); });
    let cursor = (box.left + box.right) / 2;
    svg.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -6, ArrowRight: 6 }[event.key];
      if (event.key === "Escape") clear();
      if (move === undefined) return;
      cursor = Math.min(Math.max(cursor + move, box.left), box.right);
      point(cursor);
      event.preventDefault();
    });
    svg.addEventListener("blur", clear);
    return { svg, zoomBy, reset };
  }

  function spread({ e, ends }) {
    if (ends) return ` (${round(ends[0])} to ${round(ends[1])})`;
    return e === null ? "" : ` ± ${Number(e.toPrecision(2))}`;
  }

  // A curve is read between its points, a histogram in its bin, points at the nearest one.
  function read(series, x) {
    const { x: xs, y: ys, e, ends } = series;
    if (series.style === "steps") {
      const bin = xs.findIndex((edge, index) => index + 1 < xs.length && x >= edge && (x < xs[index + 1] || index + 2 === xs.length));
      return bin < 0 ? null : { x, y: ys[bin], e: e ? e[bin] : null };
    }
    if (series.style === "points") {
      if (!xs.length) return null;
      const nearest = xs.reduce((best, value, index) => (Math.abs(value - x) < Math.abs(xs[best] - x) ? index : best), 0);
      return { x: xs[nearest], y: ys[nearest], e: e ? e[nearest] : null, ends: ends && ends[nearest] };
    }
    const above = xs.findIndex((value) => value >= x);
    if (above < 0) return null;
    if (above === 0) return { x, y: ys[0], e: null };
    const share = (x - xs[above - 1]) / (xs[above] - xs[above - 1] || 1);
    return { x, y: ys[above - 1] + share * (ys[above] - ys[above - 1]), e: null };
  }
})();
