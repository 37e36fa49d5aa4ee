// Elements out of values. Text is always a text node: nothing that an object says becomes markup.

const SVG = "http://www.w3.org/2000/svg";

// An element with attributes and children: nodes, texts, numbers, lists of them; null and false are left out.
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

// The same of SVG.
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(key, value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...flat(children));
  return node;
}

function flat(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false && child !== "");
}

// Makes the children of a parent these, and leaves those alone that are there already: focus and selection stay.
export function reconcile(parent, nodes) {
  let at = parent.firstChild;
  for (const node of nodes) {
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

// Changes a text only where it is another one.
export function say(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

// A word with a colour that is never the only difference.
export function mark(kind, text) {
  return element("span", { class: `mark ${kind}` }, text);
}

// A link into another section, with something in its search.
export function jump(section, search, text = search) {
  return element("a", { href: `#${section}?${new URLSearchParams({ q: search })}` }, text);
}

// A list of names, the first few of them written out.
export function few(names, most = 3) {
  if (names.length <= most) return names.join(", ");
  return `${names.slice(0, most).join(", ")} and ${names.length - most} more`;
}

// Terms with their values in a row; those without a value are left out.
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false);
  return element(
    "dl",
    { class: "facts" },
    shown.map(([term, value]) => element("div", {}, element("dt", {}, term), element("dd", {}, value))),
  );
}
