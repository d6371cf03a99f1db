import { Problem } from "../problems.ts";
import { comparisons, type Comparison, type Filter, type Order, type Returning } from "../write/operation.ts";

/** The part of a URL behind `?`, as PostgREST has it: `col=eq.5&name=not.in.(a,"b,c")&select=id,name&order=at.desc`. */
export interface ListQuery {
  readonly columns: Returning;
  readonly filters: readonly Filter[];
  readonly order: readonly Order[];
  readonly limit: number | null;
  readonly offset: number;
  readonly after: string | null;
}

export const maxParameters = 100;
export const maxInValues = 1_000;
/** Beyond it, a page is better asked for by `after`. */
const maxOffset = 1_000_000;

const invalid = (parameter: string, detail: string): Problem =>
  new Problem("parameter-invalid", `${JSON.stringify(parameter.slice(0, 100))} ${detail}`);

/** @throws Problem `parameter-invalid` for percent signs that stand for nothing, or for no UTF-8 */
export const decoded = (text: string, what: string): string => {
  try {
    return decodeURIComponent(text);
  } catch {
    throw invalid(what, "is not percent-encoded UTF-8");
  }
};

/** Name and value of each parameter, in order. */
export const parameters = (url: string): [name: string, value: string][] => {
  const at = url.indexOf("?");
  const parts =
    at < 0
      ? []
      : url
          .slice(at + 1)
          .split("&")
          .filter((part) => part !== "");
  if (parts.length > maxParameters) {
    throw new Problem("parameter-invalid", `more than ${maxParameters} parameters`);
  }
  return parts.map((part) => {
    const [name = "", ...rest] = part.replaceAll("+", " ").split("=");
    return [decoded(name, "a parameter's name"), decoded(rest.join("="), name)];
  });
};

/** @throws Problem `parameter-invalid` */
export const parseListQuery = (url: string): ListQuery => listQuery(parameters(url));

const listQuery = (pairs: readonly (readonly [string, string])[]): ListQuery => {
  const single = new Map<string, string>();
  const filters: Filter[] = [];
  for (const [name, value] of pairs) {
    if (!["select", "order", "limit", "offset", "after"].includes(name))
      filters.push(parseFilter(name, value));
    else if (single.has(name)) throw invalid(name, "is given twice");
    else single.set(name, value);
  }
  const offset = wholeNumber("offset", single.get("offset"), maxOffset) ?? 0;
  const after = single.get("after") ?? null;
  if (after !== null && offset > 0) throw invalid("after", "goes on after a row; it takes no offset");
  return {
    columns: parseSelect(single.get("select")),
    filters,
    order: parseOrder(single.get("order")),
    limit: wholeNumber("limit", single.get("limit"), Number.MAX_SAFE_INTEGER),
    offset,
    after,
  };
};

/** The only parameter that a single row and a write take. */
export const parseSelectOnly = (url: string): Returning => {
  const pairs = parameters(url);
  for (const [name] of pairs) {
    if (name !== "select") throw invalid(name, "is not taken here; only select is");
  }
  if (pairs.length > 1) throw invalid("select", "is given twice");
  return parseSelect(pairs[0]?.[1]);
};

const wholeNumber = (name: string, text: string | undefined, most: number): number | null => {
  if (text === undefined) return null;
  if (!/^\d{1,16}$/.test(text) || Number(text) > most)
    throw invalid(name, `takes a whole number up to ${most}`);
  return Number(text);
};

/** Splits at commas outside of double quotes; a quoted part may hold anything, `\"` and `\\` are a quote and a backslash. */
const parts = (text: string, parameter: string): string[] => {
  if (text === "") return [];
  const found: string[] = [];
  const item = /(?:"((?:[^"\\]|\\.)*)"|([^,"]*))(,|$)/gsy;
  for (;;) {
    const match = item.exec(text);
    if (match === null) throw invalid(parameter, "has a quote that is not closed or not at a value's ends");
    found.push(match[1]?.replaceAll(/\\(.)/gs, "$1") ?? match[2] ?? "");
    if (match[3] === "") return found;
  }
};

const parseSelect = (text: string | undefined): Returning => {
  if (text === undefined || text === "*") return null;
  const names = parts(text, "select");
  if (names.length === 0 || names.includes(""))
    throw invalid("select", "takes column names, with commas between");
  return names;
};

/** A name and its endings: `"a.b".desc` or `a.desc`. */
const nameAndEndings = (term: string): readonly [name: string, endings: string[]] => {
  const quoted = /^"((?:[^"\\]|\\.)*)"((?:\.[a-z]*)*)$/s.exec(term);
  if (quoted !== null) {
    return [(quoted[1] ?? "").replaceAll(/\\(.)/gs, "$1"), (quoted[2] ?? "").split(".").slice(1)];
  }
  const [name = "", ...endings] = term.split(".");
  return [name, endings];
};

const parseOrder = (text: string | undefined): Order[] => {
  if (text === undefined) return [];
  const terms = text.match(/(?:"(?:[^"\\]|\\.)*"|[^,"])+/gs) ?? [];
  if (terms.join(",") !== text)
    throw invalid("order", "takes column.asc or column.desc, with commas between");
  return terms.map((term) => {
    const [column, endings] = nameAndEndings(term);
    const direction = endings.filter((ending) => ending === "asc" || ending === "desc");
    const nulls = endings.filter((ending) => ending === "nullsfirst" || ending === "nullslast");
    if (direction.length > 1 || nulls.length > 1 || direction.length + nulls.length < endings.length) {
      throw invalid("order", "takes column, .asc or .desc, and .nullsfirst or .nullslast");
    }
    return {
      column,
      descending: direction[0] === "desc",
      nullsFirst: nulls[0] === undefined ? null : nulls[0] === "nullsfirst",
    };
  });
};

const isComparison = (text: string): text is Comparison => (comparisons as readonly string[]).includes(text);

const parseFilter = (column: string, text: string): Filter => {
  const [, not, name = "", value = ""] = /^(not\.)?([a-z]+)\.(.*)$/s.exec(text) ?? [];
  if (!isComparison(name)) {
    throw invalid(column, `takes COMPARISON.VALUE, where the comparison is one of ${comparisons.join(", ")}`);
  }
  const negated = not !== undefined;
  if (name !== "in") return { column, comparison: name, negated, values: [value] };
  const list = /^\((.*)\)$/s.exec(value)?.[1];
  if (list === undefined) throw invalid(column, "in. takes a list in parentheses: in.(1,2,3)");
  const values = parts(list, column);
  if (values.length > maxInValues) throw invalid(column, `in. takes at most ${maxInValues} values`);
  return { column, comparison: name, negated, values };
};
