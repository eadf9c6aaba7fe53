// The scatter: a point for each record, drawn by uPlot; makes no element from a record's text.
(function () {
  const chart = document.getElementById("chart");
  if (!chart) return;
  const data = JSON.parse(document.getElementById("points").textContent);
  const network = document.getElementById("panel");
  const cost = document.getElementById("cost");
  const tip = document.getElementById("tip");
  const chips = document.getElementById("chips");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const hidden = new Set();
  const REACH = 14; // pixels from a point at which it is meant
  let plot = null;
  let spots = [];
  let near = null;

  const SHAPES = { s: [4, 45], D: [4, 0], "^": [3, 0], v: [3, 180], "<": [3, 270], ">": [3, 90], p: [5, 0], h: [6, 0], P: [8, 0], X: [8, 45] };

  function css(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function colour(method) {
    return data.looks[method][dark.matches ? 1 : 0];
  }

  function shape(path, marker, x, y, r) {
    const [corners, turn] = SHAPES[marker] || [0, 0];
    if (!corners) {
      path.moveTo(x + r, y);
      path.arc(x, y, r, 0, 2 * Math.PI);
      return;
    }
    for (let i = 0; i < corners; i++) {
      const angle = ((360 * i) / corners + turn - 90) * (Math.PI / 180);
      const far = corners === 8 && i % 2 ? 0.5 * r : 1.15 * r;
      path[i ? "lineTo" : "moveTo"](x + far * Math.cos(angle), y + far * Math.sin(angle));
    }
    path.closePath();
  }

  function range(values, share) {
    const low = Math.min(...values);
    const high = Math.max(...values);
    const room = share * (high - low) || 0.05 * Math.abs(high) || 1;
    return [low - room, high + room];
  }

  function draw() {
    const panel = data.panels[Number(network.value) || 0];
    const axis = Number(cost.value) || 0;
    const shown = panel.points.filter((p) => p.x[axis] !== null && !hidden.has(p.method));
    const heights = shown.map((p) => p.y).concat(panel.parent === null ? [] : [panel.parent]);
    if (plot) plot.destroy();
    const lanes = Array.from(new Set(shown.map((p) => p.method))).sort();
    const step = panel.dodged[axis] ? Math.min(3, 6 / Math.max(1, lanes.length - 1)) : 0;
    chart.setAttribute("aria-label", "Test top-1 in per cent against " + panel.axes[axis]);
    const drawAll = (u) => {
      const ctx = u.ctx;
      const ratio = devicePixelRatio;
      ctx.save();
      if (panel.parent !== null) {
        const y = u.valToPos(panel.parent, "y", true);
        ctx.strokeStyle = css("--ink");
        ctx.setLineDash([2 * ratio, 3 * ratio]);
        ctx.beginPath();
        ctx.moveTo(u.bbox.left, y);
        ctx.lineTo(u.bbox.left + u.bbox.width, y);
        ctx.stroke();
        ctx.setLineDash([]);
      }
      spots = [];
      for (const p of shown) {
        const aside = step * (lanes.indexOf(p.method) - (lanes.length - 1) / 2);
        const x = u.valToPos(p.x[axis], "x", true) + aside * ratio;
        const y = u.valToPos(p.y, "y", true);
        const path = new Path2D();
        shape(path, data.looks[p.method][2], x, y, 5 * ratio);
        ctx.lineWidth = ratio;
        if (p.noise[axis]) {
          ctx.strokeStyle = css("--soft");
          ctx.stroke(path);
        } else {
          ctx.fillStyle = colour(p.method);
          ctx.strokeStyle = css("--paper");
          ctx.fill(path);
          ctx.stroke(path);
        }
        spots.push({ left: x / ratio - u.bbox.left / ratio, top: y / ratio - u.bbox.top / ratio, p, noise: p.noise[axis] });
      }
      ctx.restore();
    };
    const line = () => css("--line");
    const look = { stroke: () => css("--ink"), grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", labelSize: 18 };
    plot = new uPlot(
      {
        mode: 2,
        width: chart.clientWidth,
        height: chart.clientWidth < 600 ? 290 : 380,
        legend: { show: false },
        cursor: { points: { show: false }, drag: { x: true, y: true, uni: 20 } },
        scales: { x: { time: false, range: () => range(shown.length ? shown.map((p) => p.x[axis]) : [0, 1], step ? 0.2 : 0.07) }, y: { range: () => range(heights.length ? heights : [0, 100], 0.07) } },
        axes: [Object.assign({ label: panel.axes[axis] }, look), Object.assign({ label: "Test top-1, %", size: 46 }, look)],
        series: [{}, { paths: () => null }],
        hooks: { draw: [drawAll] },
      },
      [null, [shown.map((p) => p.x[axis]), shown.map((p) => p.y)]],
      chart,
    );
    plot.over.addEventListener("pointermove", hover);
    plot.over.addEventListener("pointerleave", () => point(null));
    plot.over.addEventListener("click", open);
    point(null);
    label();
  }

  function nearest(event) {
    const box = plot.over.getBoundingClientRect();
    let best = null;
    let least = REACH;
    for (const spot of spots) {
      const far = Math.hypot(event.clientX - box.left - spot.left, event.clientY - box.top - spot.top);
      if (far < least) [best, least] = [spot, far];
    }
    return best;
  }

  function point(spot) {
    near = spot;
    tip.hidden = !spot;
    plot.over.style.cursor = spot ? "pointer" : "crosshair";
    if (!spot) return;
    tip.textContent = spot.p.label + ": " + spot.p.y.toFixed(1) + " %" + (spot.noise ? ", its speed is noise" : "");
    const left = plot.over.offsetLeft + spot.left;
    tip.style.left = Math.max(0, Math.min(left + 10, chart.clientWidth - tip.offsetWidth)) + "px";
    tip.style.top = plot.over.offsetTop + spot.top + 12 + "px";
  }

  function hover(event) {
    if (event.pointerType !== "touch") point(nearest(event));
  }

  function open(event) {
    const spot = nearest(event);
    const known = near;
    if (spot && (event.pointerType !== "touch" || (known && known.p === spot.p))) {
      location.hash = "#" + spot.p.anchor;
    } else {
      point(spot); // a finger names it first and opens it second
    }
  }

  function label() {
    const panel = data.panels[Number(network.value) || 0];
    const methods = Array.from(new Set(panel.points.map((p) => p.method))).sort();
    chips.replaceChildren(
      ...methods.map((method) => {
        const chip = document.createElement("button");
        chip.type = "button";
        chip.setAttribute("aria-pressed", String(!hidden.has(method)));
        const mark = document.createElement("span");
        mark.className = "mark";
        mark.style.background = colour(method);
        chip.append(mark, method);
        chip.addEventListener("click", () => {
          if (!hidden.delete(method)) hidden.add(method);
          draw();
        });
        return chip;
      }),
    );
  }

  function offer() {
    const panel = data.panels[Number(network.value) || 0];
    const before = cost.value;
    cost.replaceChildren(
      ...panel.axes.map((name, place) => {
        const option = document.createElement("option");
        option.value = String(place);
        option.textContent = name;
        return option;
      }),
    );
    if (Number(before) < panel.axes.length && before) cost.value = before;
  }

  network.addEventListener("input", () => { offer(); draw(); });
  cost.addEventListener("input", draw);
  dark.addEventListener("change", draw);
  let width = chart.clientWidth;
  new ResizeObserver(() => {
    if (chart.clientWidth === width) return;
    width = chart.clientWidth;
    draw();
  }).observe(chart);
  offer();
  draw();
})();
