// How things are drawn: values of x, points and regions on a plane, lines over steps.

const PALETTE = ["#2f7ed8", "#f28e2b", "#2ca02c", "#d6453d", "#9467bd", "#a0705a", "#e377c2", "#8a8a8a", "#b5b52a", "#17b3c4"];
const UNKNOWN = [184, 214, 242]; // not observed: a colour that is on no grey scale, as in figures

const minus = (v) => String(v).replace("-", "−");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function classColour(i, number) {
  return number <= PALETTE.length ? PALETTE[i % PALETTE.length] : `hsl(${(360 * i) / number} 65% ${i % 2 ? 45 : 60}%)`;
}

function numberColour(t) { // dark blue to yellow, by lightness too
  const stops = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  const from = matchMedia("(prefers-color-scheme: dark)").matches ? 0.25 : 0; // below it is not seen on a dark ground
  const at = (from + (1 - from) * Math.max(0, Math.min(0.9999, t))) * (stops.length - 1), i = Math.floor(at), f = at - i;
  return `rgb(${stops[i].map((c, k) => Math.round(c + f * (stops[i + 1][k] - c))).join(",")})`;
}

const text = (size) => `${Math.round(size * parseFloat(getComputedStyle(document.documentElement).fontSize))}px system-ui, sans-serif`;
const tall = () => document.documentElement.clientHeight; // of the window, and on a phone the same when its bars are hidden

// Sets a canvas to its width on the page and a height of so many times that, of the window's at most a share; in
// units of CSS pixels.
function sized(canvas, ratio, most = Infinity) {
  const width = Math.max(1, canvas.clientWidth), scale = window.devicePixelRatio || 1;
  const height = Math.max(1, Math.round(Math.min(width * ratio, most * tall())));
  const pixels = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) [canvas.width, canvas.height] = pixels;
  if (canvas.style.height !== `${height}px`) canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

// Height, width and channels of an image's shape.
function imageShape(shape) {
  return shape.length === 3 ? [shape[1], shape[2], shape[0]] : [shape[0], shape[1], 1];
}

// Values of an image from 0 to 255, null where not known, as a canvas of its own size.
function imageOf(levels, shape) {
  const [height, width, channels] = imageShape(shape), size = height * width;
  const canvas = document.createElement("canvas");
  canvas.width = width; canvas.height = height;
  const pen = canvas.getContext("2d"), image = pen.createImageData(width, height);
  for (let i = 0; i < size; i++) {
    let unknown = false;
    for (let c = 0; c < 3; c++) {
      const value = levels[i + (channels === 3 ? c * size : 0)];
      unknown = unknown || value === null;
      image.data[4 * i + c] = value;
    }
    if (unknown) for (let c = 0; c < 3; c++) image.data[4 * i + c] = UNKNOWN[c] - ((i + Math.floor(i / width)) % 2) * 14;
    image.data[4 * i + 3] = 255;
  }
  pen.putImageData(image, 0, 0);
  return canvas;
}

function drawImage(canvas, levels, shape, most) { // as large as there is room, in width or height
  const [height, width] = imageShape(shape);
  canvas.style.maxWidth = `${Math.round(most * tall() * width / height)}px`;
  const { pen, width: w, height: h } = sized(canvas, height / width);
  pen.imageSmoothingEnabled = width * height > 128 * 128;
  pen.drawImage(imageOf(levels, shape), 0, 0, w, h);
}

// A curve, or a series of several numbers at each time; of values by numbers, null where not known.
function drawCurves(canvas, sets, shape, range) {
  canvas.style.maxWidth = "";
  const { pen, width, height } = sized(canvas, 0.62, 0.4), each = shape.length > 1 ? shape[1] : 1, length = shape[0];
  const place = curvePlace(width, height, length, range);
  pen.strokeStyle = css("--line"); pen.fillStyle = css("--soft"); pen.font = text(0.75);
  pen.lineWidth = 1;
  for (const value of range) {
    const y = place.y(value);
    pen.beginPath(); pen.moveTo(place.left, y); pen.lineTo(width, y); pen.stroke();
    pen.fillText(minus(value.toPrecision(3)), 2, y < height / 2 ? y - 3 : y + parseInt(pen.font));
  }
  sets.forEach(({ values, dots, dashed, colour }) => {
    for (let d = 0; d < each; d++) {
      pen.strokeStyle = pen.fillStyle = each > 1 ? classColour(d, each) : css(colour);
      pen.setLineDash(dashed ? [6, 4] : []); pen.lineWidth = 2.2;
      pen.beginPath();
      let open = false;
      for (let t = 0; t < length; t++) {
        const value = values[t * each + d];
        if (value === null) { open = false; continue; }
        if (open) pen.lineTo(place.x(t), place.y(value)); else pen.moveTo(place.x(t), place.y(value));
        open = true;
      }
      pen.stroke(); pen.setLineDash([]);
      if (dots || length < 3) for (let t = 0; t < length; t++) {
        const value = values[t * each + d];
        if (value === null) continue;
        pen.beginPath(); pen.arc(place.x(t), place.y(value), length > 60 ? 1.6 : 3.5, 0, 7); pen.fill();
      }
    }
  });
}

function curvePlace(width, height, length, [low, high]) {
  const left = 10, top = 18, inner = height - 36;
  return { left, x: (t) => left + ((width - 2 * left) * (length > 1 ? t / (length - 1) : 0.5)),
    y: (v) => top + inner * (1 - (v - low) / (high - low)),
    time: (x) => Math.max(0, Math.min(length - 1, Math.round(((x - left) / (width - 2 * left)) * (length - 1)))),
    value: (y) => Math.max(low, Math.min(high, low + (high - low) * (1 - (y - top) / inner))) };
}

// Between coordinates of a plane and pixels of a canvas, with one unit of length in both directions.
function viewOf(box, width, height) {
  const scale = Math.min(width / (box[1] - box[0]), height / (box[3] - box[2]));
  const middle = [(box[0] + box[1]) / 2, (box[2] + box[3]) / 2];
  return { scale, to: ([a, b]) => [width / 2 + (a - middle[0]) * scale, height / 2 - (b - middle[1]) * scale],
    from: ([x, y]) => [middle[0] + (x - width / 2) / scale, middle[1] - (y - height / 2) / scale] };
}

function drawAxes(pen, view, width, height, names) {
  const span = width / view.scale, raw = span / 8, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw), low = view.from([0, height]), high = view.from([width, 0]);
  pen.font = text(0.85); pen.fillStyle = css("--soft"); pen.strokeStyle = css("--line"); pen.lineWidth = 1;
  const em = parseInt(pen.font);
  for (const axis of [0, 1]) {
    for (let v = Math.ceil(low[axis] / step) * step; v <= high[axis]; v += step) {
      const at = view.to([axis ? 0 : v, axis ? v : 0])[axis], text = minus(+v.toPrecision(6));
      pen.beginPath();
      if (axis) { pen.moveTo(0, at); pen.lineTo(width, at); } else { pen.moveTo(at, 0); pen.lineTo(at, height); }
      pen.stroke();
      if (axis && at > 2.6 * em && at < height - 1.4 * em) pen.fillText(text, 3, at - 3); // not on a name, nor in a corner
      if (!axis && at < width - 2.3 * em) pen.fillText(text, at + 3, height - 4);
    }
  }
  pen.fillStyle = css("--ink"); pen.textAlign = "right"; pen.fillText(`${names[0]} →`, width - 6, height - 1.5 * em);
  pen.textAlign = "left"; pen.fillText(`↑ ${names[1]}`, 6, 1.2 * em);
}

// The region of a Normal that holds a share p of it, from its covariance.
function drawEllipse(pen, view, mean, covariance, p, colour) {
  const [[a, b], [, d]] = covariance, middle = (a + d) / 2, root = Math.hypot((a - d) / 2, b);
  const radii = [middle + root, middle - root].map((v) => Math.sqrt(Math.max(v, 0) * -2 * Math.log(1 - p)) * view.scale);
  const [x, y] = view.to(mean);
  pen.strokeStyle = colour; pen.lineWidth = 2.5; pen.beginPath();
  pen.ellipse(x, y, Math.max(radii[0], 0.5), Math.max(radii[1], 0.5), -0.5 * Math.atan2(2 * b, a - d), 0, 2 * Math.PI);
  pen.stroke();
}

// A density on the cells of a box, rows along the second coordinate, as shading.
function drawGrid(pen, view, grid) {
  const side = grid.side, levels = grid.levels, canvas = document.createElement("canvas"), colour = css("--truth").split(",");
  canvas.width = canvas.height = side;
  const inner = canvas.getContext("2d"), image = inner.createImageData(side, side);
  for (let i = 0; i < side * side; i++) {
    const at = 4 * ((side - 1 - Math.floor(i / side)) * side + (i % side));
    for (let c = 0; c < 3; c++) image.data[at + c] = +colour[c];
    image.data[at + 3] = levels[i] * 0.9;
  }
  inner.putImageData(image, 0, 0);
  const [left, top] = view.to([grid.low[0], grid.high[1]]), [right, bottom] = view.to([grid.high[0], grid.low[1]]);
  pen.imageSmoothingEnabled = true;
  pen.drawImage(canvas, left, top, right - left, bottom - top);
}

function drawDots(pen, view, points, colour, radius) {
  pen.fillStyle = colour;
  for (const point of points) {
    const [x, y] = view.to(point);
    pen.beginPath(); pen.arc(x, y, radius, 0, 7); pen.fill();
  }
}

function drawRing(pen, view, point, colour, radius) { // of what is not known: a class may be grey, too
  const [x, y] = view.to(point);
  pen.strokeStyle = colour; pen.lineWidth = 1.3;
  pen.beginPath(); pen.arc(x, y, radius - 0.6, 0, 7); pen.stroke();
}

function drawCrosses(pen, view, points, colour, radius) {
  pen.strokeStyle = colour; pen.lineWidth = 1.4; pen.beginPath();
  for (const point of points) {
    const [x, y] = view.to(point);
    pen.moveTo(x - radius, y - radius); pen.lineTo(x + radius, y + radius); pen.moveTo(x - radius, y + radius); pen.lineTo(x + radius, y - radius);
  }
  pen.stroke();
}

function drawChart(canvas, title, steps, values) {
  const { pen, width, height } = sized(canvas, 0.72, 0.16), known = values.filter((v) => v !== null);
  const low = Math.min(...known), high = Math.max(...known), span = high - low || 1, last = steps[steps.length - 1] || 1;
  pen.font = text(0.8);
  const em = parseInt(pen.font), left = 4 * em, top = 1.6 * em, bottom = height - 1.3 * em;
  pen.fillStyle = css("--ink"); pen.fillText(title, 2, em, width - 4);
  pen.fillStyle = css("--soft");
  if (!known.length) return;
  pen.fillText(minus(high.toPrecision(4)), 2, top + 0.8 * em); pen.fillText(minus(low.toPrecision(4)), 2, bottom);
  pen.textAlign = "right"; pen.fillText(`step ${steps[steps.length - 1]}`, width - 2, height - 3); pen.textAlign = "left";
  pen.strokeStyle = css("--accent"); pen.lineWidth = 2.5; pen.beginPath();
  values.forEach((v, i) => {
    if (v === null) return;
    const x = left + ((width - left - 4) * steps[i]) / last, y = top + (bottom - top) * (1 - (v - low) / span);
    if (i) pen.lineTo(x, y); else pen.moveTo(x, y);
  });
  pen.stroke();
}
