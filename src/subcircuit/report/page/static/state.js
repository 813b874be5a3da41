// What the page shows, kept in the address: a link brings back the same view.

const FRESH = { circuit: 0, other: null, edges: null, all: false, prompt: null, node: null, find: "", theme: null, zoom: 1 };

const READ = {
  circuit: whole,
  other: whole,
  edges: whole,
  all: (text) => text === "1",
  prompt: whole,
  node: (text) => text,
  find: (text) => text,
  theme: (text) => (text === "dark" || text === "light" ? text : null),
  zoom: (text) => Math.min(4, Math.max(1, Number(text) || 1)),
};

function whole(text) {
  return /^\d{1,9}$/.test(text) ? Number(text) : null;
}

export function fromAddress(hash) {
  const state = { ...FRESH };
  for (const [name, text] of new URLSearchParams(hash.replace(/^#/, ""))) {
    if (Object.hasOwn(READ, name)) state[name] = READ[name](text) ?? FRESH[name];
  }
  return state;
}

export function toAddress(state) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value !== FRESH[name] && value !== null && value !== "") words.set(name, value === true ? "1" : String(value));
  }
  return `#${words}`;
}

export function createStore(onChange) {
  let state = fromAddress(location.hash);
  const store = {
    get: () => state,
    set(patch) {
      const before = state;
      state = { ...state, ...patch };
      const changed = Object.keys(state).filter((name) => state[name] !== before[name]);
      if (!changed.length) return;
      history.replaceState(null, "", toAddress(state));
      onChange(state, new Set(changed));
    },
  };
  addEventListener("hashchange", () => store.set(fromAddress(location.hash)));
  return store;
}
