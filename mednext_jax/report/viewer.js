"use strict";
// The viewer: three planes cut from one volume of 8-bit voxels, x fastest, axes to the right, to the front, upwards.
(async () => {
  const viewer = document.querySelector(".viewer");
  const about = JSON.parse(document.getElementById("viewer-about").textContent);
  const PLANES = {
    axial: { across: 0, up: 1, along: 2, edges: ["R", "L", "A", "P"] },
    coronal: { across: 0, up: 2, along: 1, edges: ["R", "L", "S", "I"] },
    sagittal: { across: 1, up: 2, along: 0, edges: ["A", "P", "S", "I"] },
  };
  const OUTLINE = "#ffd54a", CHOSEN = "#ffffff", CASING = "#000000", CROSS = "#7fd4ff";
  const JUMP_ZOOM = 3, MAX_ZOOM = 12, SCALE_MM = 20, LEAST_SHOWN = 13, TOLD = 6; // of 255: 0.05

  const inflate = async (name) => {
    const packed = atob(document.getElementById(`voxels-${name}`).textContent);
    const bytes = new Uint8Array(packed.length);
    for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  };
  const refuse = (why) => {
    const note = document.createElement("p");
    note.className = "empty";
    note.textContent = `The viewer cannot be shown: ${why}. The mosaics show the scan without it.`;
    viewer.before(note);
  };
  if (typeof DecompressionStream === "undefined") {
    refuse("this browser is too old (Chrome and Edge 80, Firefox 113, Safari 16.4 or newer)");
    return;
  }
  let scan, probability, clusters;
  const maps = {}; // name -> {title, top, values} of what can be laid over the scan
  try {
    probability = about.probability ? new Uint8Array(await inflate("probability")) : null;
    if (probability) maps.probability = { title: "probability", top: 1, values: probability };
    for (const { name, title, top } of about.maps) maps[name] = { title, top, values: new Uint8Array(await inflate(name)) };
    scan = about.scan ? new Uint8Array(await inflate("scan")) : null;
    const labels = await inflate("clusters");
    clusters = about.labelBytes === 2 ? new Uint16Array(labels) : new Uint32Array(labels);
  } catch (error) {
    refuse(`its voxels are damaged (${error.message})`);
    return;
  }
  const size = about.shape, mm = about.voxelSize;
  const stride = [1, size[0], size[0] * size[1]];
  const state = {
    at: size.map((n) => n >> 1), zoom: 1, zoomed: false, chosen: 0, low: 0, high: 255, radiological: true,
    show: { outlines: true, probability: false, cross: true }, map: "probability",
  };

  const small = new Set(about.small); // clusters that are too small to count
  const rows = new Map();
  for (const row of document.querySelectorAll("tr[data-cluster]")) rows.set(Number(row.dataset.cluster), row);
  const panes = {};
  for (const figure of viewer.querySelectorAll(".pane")) {
    panes[figure.dataset.plane] = {
      figure, canvas: figure.querySelector("canvas"), slider: figure.querySelector("input"),
      voxels: document.createElement("canvas"), overlay: document.createElement("canvas"),
    };
  }
  const here = viewer.querySelector(".here");

  // Dark violet over orange to pale yellow: its lightness rises all the way, so it reads in black and white.
  const heat = (p) => {
    const t = p / 255;
    return [255 * Math.min(1, 0.25 + 1.5 * t), 255 * Math.max(0, 1.25 * t - 0.25), 255 * (t < 0.5 ? 0.45 - 0.8 * t : 1.7 * t - 0.8)];
  };
  const mirrored = (plane) => plane === "sagittal" || state.radiological;

  const placed = (affine, at) => affine.slice(0, 3).map((row) => row[0] * at[0] + row[1] * at[1] + row[2] * at[2] + row[3]);
  const toMm = (at) => placed(about.affine, at);
  const signed = (value) => `${value < 0 ? "−" : ""}${Math.abs(value).toFixed(1)}`;
  const indexOf = (at) => at[0] + stride[1] * at[1] + stride[2] * at[2];

  // Where a plane's slice lies on its canvas: pixels a voxel, and the canvas position of the slice's top left corner.
  const layout = (plane) => {
    const { across, up } = PLANES[plane];
    const { width, height } = panes[plane].canvas;
    const scale = (width / (size[across] * mm[across])) * state.zoom;
    const dx = scale * mm[across], dy = scale * mm[up];
    const column = mirrored(plane) ? size[across] - 1 - state.at[across] : state.at[across];
    const row = size[up] - 1 - state.at[up];
    const place = (index, step, count, room) =>
      Math.min(0, Math.max(room - count * step, room / 2 - (index + 0.5) * step));
    return { dx, dy, column, row, left: place(column, dx, size[across], width), top: place(row, dy, size[up], height) };
  };

  const draw = (plane) => {
    const { across, up, along, edges } = PLANES[plane];
    const pane = panes[plane], canvas = pane.canvas;
    const columns = size[across], lines = size[up];
    const box = canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(box.width * ratio));
    const height = Math.max(1, Math.round((width * lines * mm[up]) / (columns * mm[across])));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const gain = 255 / Math.max(1, state.high - state.low);
    const grey = new ImageData(columns, lines), heated = new ImageData(columns, lines);
    const cut = clusters instanceof Uint16Array ? new Uint16Array(columns * lines) : new Uint32Array(columns * lines);
    const flip = mirrored(plane);
    const base = scan || probability;
    const over = state.show.probability && maps[state.map] ? maps[state.map].values : null;
    for (let r = 0; r < lines; r++) {
      let from = state.at[along] * stride[along] + (lines - 1 - r) * stride[up] + (flip ? columns - 1 : 0) * stride[across];
      const step = flip ? -stride[across] : stride[across];
      for (let c = 0, to = r * columns; c < columns; c++, to++, from += step) {
        const value = base ? Math.max(0, Math.min(255, (base[from] - state.low) * gain)) : 0;
        grey.data[4 * to] = grey.data[4 * to + 1] = grey.data[4 * to + 2] = value;
        grey.data[4 * to + 3] = 255;
        cut[to] = clusters[from];
        const p = over ? over[from] : 0;
        if (p >= LEAST_SHOWN) {
          [heated.data[4 * to], heated.data[4 * to + 1], heated.data[4 * to + 2]] = heat(p);
          heated.data[4 * to + 3] = 60 + 0.45 * p;
        }
      }
    }
    const place = layout(plane);
    const context = canvas.getContext("2d");
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingEnabled = place.dx < 12 * ratio; // far in, the voxels themselves are shown
    for (const [layer, image] of [[pane.voxels, grey], [pane.overlay, heated]]) {
      if (image === heated && !state.show.probability) continue;
      layer.width = columns;
      layer.height = lines;
      layer.getContext("2d").putImageData(image, 0, 0);
      context.drawImage(layer, place.left, place.top, columns * place.dx, lines * place.dy);
    }
    if (state.show.outlines) outline(context, cut, columns, lines, place, ratio);
    if (state.show.cross) cross(context, place, width, height, ratio);
    letters(context, plane, edges, width, height, ratio, place);
    pane.slider.value = state.at[along];
    const position = toMm(state.at)[along];
    pane.slider.setAttribute("aria-valuetext", `slice ${state.at[along] + 1} of ${size[along]}, ${signed(position)} mm`);
    canvas.setAttribute(
      "aria-label",
      `${plane} slice ${state.at[along] + 1} of ${size[along]} at ${"xyz"[along]} ${signed(position)} mm; ` +
        `${[...new Set(cut)].filter((label) => label > 0 && !small.has(label)).length} PVS outlined`,
    );
  };

  const outline = (context, cut, columns, lines, place, ratio) => {
    const usual = new Path2D(), chosen = new Path2D(), thin = new Path2D();
    const segment = (label, c0, r0, c1, r1) => {
      const path = label === state.chosen ? chosen : small.has(label) ? thin : usual;
      path.moveTo(place.left + c0 * place.dx, place.top + r0 * place.dy);
      path.lineTo(place.left + c1 * place.dx, place.top + r1 * place.dy);
    };
    for (let r = 0, i = 0; r < lines; r++) {
      for (let c = 0; c < columns; c++, i++) {
        const label = cut[i];
        if (label === 0) continue;
        if (c === 0 || cut[i - 1] !== label) segment(label, c, r, c, r + 1);
        if (c === columns - 1 || cut[i + 1] !== label) segment(label, c + 1, r, c + 1, r + 1);
        if (r === 0 || cut[i - columns] !== label) segment(label, c, r, c + 1, r);
        if (r === lines - 1 || cut[i + columns] !== label) segment(label, c, r + 1, c + 1, r + 1);
      }
    }
    context.lineCap = "square";
    const strokes = [[thin, CASING, 1.6], [thin, OUTLINE, 0.7], [usual, CASING, 2.6], [usual, OUTLINE, 1.3], [chosen, CASING, 3.6], [chosen, CHOSEN, 1.8]];
    for (const [path, colour, thick] of strokes) {
      context.strokeStyle = colour;
      context.lineWidth = thick * ratio;
      context.stroke(path);
    }
  };

  const cross = (context, place, width, height, ratio) => {
    const x = place.left + (place.column + 0.5) * place.dx, y = place.top + (place.row + 0.5) * place.dy;
    const gap = Math.max(10 * ratio, 2.5 * Math.max(place.dx, place.dy));
    context.strokeStyle = CROSS;
    context.globalAlpha = 0.75;
    context.lineWidth = ratio;
    context.beginPath();
    context.moveTo(0, y); context.lineTo(x - gap, y); context.moveTo(x + gap, y); context.lineTo(width, y);
    context.moveTo(x, 0); context.lineTo(x, y - gap); context.moveTo(x, y + gap); context.lineTo(x, height);
    context.stroke();
    context.globalAlpha = 1;
  };

  const letters = (context, plane, edges, width, height, ratio, place) => {
    let [left, right] = edges;
    if (plane !== "sagittal" && !state.radiological) [left, right] = [right, left];
    context.font = `600 ${13 * ratio}px system-ui, sans-serif`;
    context.lineWidth = 3 * ratio;
    context.strokeStyle = "#000";
    context.fillStyle = "#fff";
    const margin = 8 * ratio;
    const write = (letter, x, y, align, baseline) => {
      context.textAlign = align;
      context.textBaseline = baseline;
      context.strokeText(letter, x, y);
      context.fillText(letter, x, y);
    };
    write(left, margin, height / 2, "left", "middle");
    write(right, width - margin, height / 2, "right", "middle");
    write(edges[2], width / 2, margin, "center", "top");
    write(edges[3], width / 2, height - margin, "center", "bottom");
    const { along } = PLANES[plane];
    write(`${"xyz"[along]} ${signed(toMm(state.at)[along])} mm`, width - margin, height - margin, "right", "bottom");
    const bar = (SCALE_MM * place.dx) / mm[PLANES[plane].across];
    if (bar < width * 0.8) {
      write(`${SCALE_MM} mm`, margin, height - 14 * ratio, "left", "bottom");
      context.strokeRect(margin, height - 11 * ratio, bar, ratio);
      context.fillRect(margin, height - 11 * ratio, bar, 2 * ratio);
    }
  };

  // Scrolls the table, not the page, until the row can be seen below the heads of its columns.
  const reveal = (row) => {
    const frame = row.closest(".scroll"), box = row.getBoundingClientRect(), outer = frame.getBoundingClientRect();
    const top = outer.top + row.closest("table").tHead.offsetHeight;
    if (box.top < top) frame.scrollTop -= top - box.top;
    else if (box.bottom > outer.bottom) frame.scrollTop += box.bottom - outer.bottom;
  };
  const tell = () => {
    const at = indexOf(state.at), label = clusters[at];
    const [x, y, z] = toMm(state.at).map(signed);
    const voxel = placed(about.toFile, state.at).map((index) => Math.max(0, Math.round(index)));
    const parts = [`x ${x}, y ${y}, z ${z} mm`, `voxel ${voxel.join(", ")} of the file`];
    const shown = Object.keys(maps).filter((name) => name === "probability" || (state.show.probability && name === state.map));
    for (const { title, top, values } of shown.map((name) => maps[name])) parts.push(`${title} ${((values[at] / 255) * top).toFixed(2)}`);
    for (const row of document.querySelectorAll("tr.chosen")) row.classList.remove("chosen");
    if (label > 0) {
      state.chosen = label;
      const row = rows.get(label);
      const heads = row ? [...row.closest("table").tHead.rows[0].cells] : [];
      const said = heads
        .map((head, i) => [head.textContent.trim(), row.cells[i].textContent.trim()])
        .filter(([name, value], i) => i > 0 && value !== "" && !/^[xyz] \(/.test(name))
        .slice(0, TOLD).map((pair) => pair.join(" ")).join(", ");
      parts.push(`PVS ${label}${said ? ` (${said})` : ""}`);
      if (row) {
        row.classList.add("chosen");
        reveal(row);
      }
    }
    here.textContent = parts.join(" · ");
  };

  let waiting = false;
  const redraw = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      for (const plane of Object.keys(PLANES)) draw(plane);
      tell();
    });
  };
  const move = (axis, by) => {
    state.at[axis] = Math.max(0, Math.min(size[axis] - 1, state.at[axis] + by));
    redraw();
  };
  const zoom = (factor) => {
    state.zoom = Math.max(1, Math.min(MAX_ZOOM, state.zoom * factor));
    state.zoomed = true;
    redraw();
  };
  // A place of the page's tables and mosaics, in voxels of the grid that they were made on, which may be finer.
  const onGrid = (values, of, axes) => values.map((v, i) => Math.min(size[axes[i]] - 1, Math.floor((v * size[axes[i]]) / of[axes[i]])));
  const numbers = (text) => text.split(" ").map(Number);
  const jump = (row) => {
    if (!row.dataset.at) return;
    state.at = onGrid(numbers(row.dataset.at), numbers(row.dataset.of), [0, 1, 2]);
    state.chosen = Number(row.dataset.cluster);
    if (!state.zoomed) state.zoom = JUMP_ZOOM;
    redraw();
  };
  const showViewer = () => {
    const box = viewer.getBoundingClientRect();
    if (box.top < 0 || box.top > window.innerHeight / 2) viewer.scrollIntoView({ block: "start" });
  };
  const step = (by) => {
    const there = [...document.querySelectorAll("tr[data-at]")].filter((row) => !row.hidden);
    if (!there.length) return;
    const now = there.findIndex((row) => Number(row.dataset.cluster) === state.chosen);
    jump(there[now < 0 ? (by > 0 ? 0 : there.length - 1) : (now + by + there.length) % there.length]);
  };

  for (const [plane, pane] of Object.entries(panes)) {
    const { across, up, along } = PLANES[plane];
    pane.figure.style.flexGrow = String(size[across] * mm[across]);
    pane.figure.style.flexBasis = `${size[across] * mm[across]}px`;
    pane.slider.max = String(size[along] - 1);
    pane.slider.addEventListener("input", () => {
      state.at[along] = Number(pane.slider.value);
      redraw();
    });
    const point = (event) => {
      const box = pane.canvas.getBoundingClientRect(), place = layout(plane);
      const ratio = pane.canvas.width / box.width;
      const column = Math.floor(((event.clientX - box.left) * ratio - place.left) / place.dx);
      const row = Math.floor(((event.clientY - box.top) * ratio - place.top) / place.dy);
      const inside = (n, axis) => Math.max(0, Math.min(size[axis] - 1, n));
      state.at[across] = inside(mirrored(plane) ? size[across] - 1 - column : column, across);
      state.at[up] = inside(size[up] - 1 - row, up);
      redraw();
    };
    pane.canvas.addEventListener("click", point);
    pane.canvas.addEventListener("pointermove", (event) => {
      if (event.buttons === 1 && event.pointerType === "mouse" && state.zoom === 1) point(event);
    });
    pane.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (event.ctrlKey) zoom(event.deltaY < 0 ? 1.25 : 0.8);
      else move(along, event.deltaY < 0 ? 1 : -1);
    }, { passive: false });
    pane.canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const sideways = mirrored(plane) ? -1 : 1;
      const actions = {
        ArrowLeft: () => move(across, -sideways), ArrowRight: () => move(across, sideways),
        ArrowUp: () => move(up, 1), ArrowDown: () => move(up, -1),
        PageUp: () => move(along, 1), PageDown: () => move(along, -1),
        n: () => step(1), p: () => step(-1), "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5),
      };
      const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (action) {
        event.preventDefault();
        action();
      }
    });
  }
  const actions = { previous: () => step(-1), next: () => step(1), in: () => zoom(1.5), out: () => zoom(1 / 1.5) };
  for (const button of viewer.querySelectorAll("button[data-do]")) button.addEventListener("click", actions[button.dataset.do]);
  viewer.querySelector("select[data-do=convention]").addEventListener("change", (event) => {
    state.radiological = event.target.value === "radiological";
    redraw();
  });
  const bar = viewer.querySelector(".scale-bar");
  viewer.querySelector("select[data-do=map]")?.addEventListener("change", (event) => {
    state.map = event.target.value;
    state.show.probability = viewer.querySelector("input[data-show=probability]").checked = true;
    bar.hidden = false;
    bar.querySelector(".of").textContent = event.target.selectedOptions[0].textContent;
    bar.querySelector(".top").textContent = String(maps[state.map].top);
    redraw();
  });
  for (const box of viewer.querySelectorAll("input[data-show]")) {
    box.addEventListener("change", () => {
      state.show[box.dataset.show] = box.checked;
      bar.hidden = !state.show.probability;
      redraw();
    });
  }
  for (const slider of viewer.querySelectorAll("input[data-window]")) {
    slider.addEventListener("input", () => {
      state[slider.dataset.window] = Number(slider.value);
      redraw();
    });
  }
  const colours = bar.querySelector("canvas").getContext("2d");
  for (let i = 0; i < 96; i++) {
    colours.fillStyle = `rgb(${heat((i / 95) * 255).map(Math.round).join(",")})`;
    colours.fillRect(i, 0, 1, 10);
  }
  for (const row of rows.values()) {
    if (!row.dataset.at) continue;
    row.addEventListener("click", () => {
      jump(row);
      showViewer();
    });
  }
  for (const tile of document.querySelectorAll("button.tile")) {
    tile.addEventListener("click", () => {
      const { along } = PLANES[tile.dataset.plane];
      [state.at[along]] = onGrid([Number(tile.dataset.index)], numbers(tile.dataset.of), [along]);
      redraw();
      showViewer();
    });
  }
  window.addEventListener("resize", redraw);
  viewer.hidden = false;
  const largest = [...rows.values()].find((row) => row.dataset.at);
  if (largest) {
    state.at = onGrid(numbers(largest.dataset.at), numbers(largest.dataset.of), [0, 1, 2]);
    state.chosen = Number(largest.dataset.cluster);
  }
  redraw();
  document.documentElement.dataset.viewer = "ready";
})();
