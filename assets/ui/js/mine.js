// Jobs this browser started; a shared studio lists nobody else's.

const MINE_KEY = "tessera.mine";
const MINE_MOST = 60;

export function mine() {
  try {
    return JSON.parse(localStorage.getItem(MINE_KEY)) || [];
  } catch {
    return [];
  }
}

export function remember(id) {
  const ids = [id, ...mine().filter((other) => other !== id)].slice(0, MINE_MOST);
  localStorage.setItem(MINE_KEY, JSON.stringify(ids));
}
