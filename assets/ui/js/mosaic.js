// A field of hand-cut stones: what the wall shows before there is a picture.

/** Small seeded generator (mulberry32), so that the field stays the same while the page is resized. */
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let word = Math.imul(state ^ (state >>> 15), state | 1);
    word ^= word + Math.imul(word ^ (word >>> 7), word | 61);
    return ((word ^ (word >>> 14)) >>> 0) / 4294967296;
  };
}

/** The colour of a stone: sky above, a sun, hills below, all held back so that a real picture stands out. */
function stoneColour(x, y, chance, night) {
  const hill = 0.66 + 0.1 * Math.sin(x * 4.2 + 0.6) + 0.035 * Math.sin(x * 11);
  const far = 0.55 + 0.06 * Math.sin(x * 5.5 + 2.2);
  const sun = Math.hypot((x - 0.7) * 1.0, y - 0.3);
  const shade = (chance - 0.5) * (night ? 7 : 5);
  if (y > hill) return `hsl(${168 + shade} ${night ? 26 : 24}% ${(night ? 20 : 66) + shade - (y - hill) * 12}%)`;
  if (sun < 0.1) return `hsl(${40 + shade} ${night ? 48 : 62}% ${(night ? 46 : 72) + shade}%)`;
  if (y > far) return `hsl(${192 + shade} ${night ? 18 : 20}% ${(night ? 17 : 73) + shade}%)`;
  const glow = Math.max(0, 0.36 - sun) * (night ? 14 : 12);
  return `hsl(${(night ? 206 : 196) - glow * 8} ${night ? 18 : 17}% ${(night ? 13 : 84) + shade * 0.8 + glow}%)`;
}

/** Draw the field over the whole of `canvas`, about 30 stones along the longer side. */
export function drawMosaic(canvas) {
  const box = canvas.getBoundingClientRect();
  const scale = Math.min(2, window.devicePixelRatio || 1);
  const width = Math.max(1, Math.round(box.width * scale));
  const height = Math.max(1, Math.round(box.height * scale));
  canvas.width = width;
  canvas.height = height;
  const paint = canvas.getContext("2d");
  const night = document.body.classList.contains("dark");
  const random = generator(20);
  const stone = Math.max(width, height) / 30;
  const columns = Math.max(1, Math.round(width / stone));
  const rows = Math.max(1, Math.round(height / stone));
  const corner = (limit, at, count) => (at === 0 || at === count ? 0 : (random() - 0.5) * limit);
  const xs = [];
  for (let row = 0; row <= rows; row += 1) {
    xs.push([]);
    for (let column = 0; column <= columns; column += 1) {
      xs[row].push([
        (column / columns) * width + corner(stone * 0.2, column, columns),
        (row / rows) * height + corner(stone * 0.2, row, rows),
      ]);
    }
  }
  paint.fillStyle = night ? "#0c1112" : "#f3f4f1";
  paint.fillRect(0, 0, width, height);
  const grout = Math.max(1, stone * 0.055);
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1) {
      const corners = [xs[row][column], xs[row][column + 1], xs[row + 1][column + 1], xs[row + 1][column]];
      paint.fillStyle = stoneColour((column + 0.5) / columns, (row + 0.5) / rows, random(), night);
      fillShrunk(paint, corners, grout);
    }
  }
}

function fillShrunk(paint, corners, by) {
  const middle = [0, 1].map((axis) => corners.reduce((sum, point) => sum + point[axis], 0) / corners.length);
  paint.beginPath();
  for (const point of corners) {
    const away = Math.hypot(point[0] - middle[0], point[1] - middle[1]);
    const keep = Math.max(0, (away - by) / away);
    paint.lineTo(middle[0] + (point[0] - middle[0]) * keep, middle[1] + (point[1] - middle[1]) * keep);
  }
  paint.closePath();
  paint.fill();
}
