import {
  isAlias,
  isMap,
  isScalar,
  isSeq,
  parseDocument,
  type Document,
  type Node,
  type YAMLError,
} from "yaml";
import { interpolate, type Environment } from "./interpolate.ts";
import { suggest } from "./suggest.ts";

/** One thing that is wrong in a file. Lines and columns count from 1, as editors do. */
export interface Problem {
  readonly line: number;
  readonly column: number;
  readonly message: string;
}

/** A value in the file: where it stands, and how messages call it (`regions[1].postgres`). */
export interface Field {
  readonly path: string;
  readonly node: Node | null;
  readonly offset: number;
}

export interface Text {
  readonly value: string;
  /** What messages may show: the text of the file, before variables were filled in. */
  readonly shown: string;
}

export interface Bound {
  readonly usual: number;
  readonly least: number;
  readonly most: number;
}

const maxCharacters = 256 * 1024;
const maxSyntaxProblems = 5;

/** Our words for the parser's errors, because its own messages quote the file, and so may quote a password. */
const syntax: Readonly<Record<string, string>> = {
  BAD_ALIAS: "an alias (*name) names no anchor",
  BAD_DQ_ESCAPE: 'a "\\" in a double-quoted text begins no known escape (use single quotes)',
  BAD_INDENT: "the indentation does not fit the lines above",
  BAD_SCALAR_START: "a plain text cannot begin with this character: quote it",
  BLOCK_AS_IMPLICIT_KEY: "two colons in one line: quote the text",
  DUPLICATE_KEY: "this key is given twice",
  MISSING_CHAR: "a quote, bracket, colon or comma is missing",
  MULTILINE_IMPLICIT_KEY: "a key must stand on one line and be followed by a colon",
  MULTIPLE_DOCS: "the file must hold one document: remove what follows the ---",
  TAB_AS_INDENT: "indent with spaces, not with tabs",
  TAG_RESOLVE_FAILED: "this tag (!name) is not known",
};

/** A value that may be a URL, or be pasted from one, is not repeated in messages. */
const quotable = (text: string): boolean => text.length <= 80 && !/:\/\/|@/.test(text);
export const quote = (text: string): string => (quotable(text) ? JSON.stringify(text) : "this value");

/** Reads a YAML text and collects every problem instead of stopping at the first. */
export class YamlReader {
  readonly problems: Problem[] = [];
  /** The whole document; meaningless if there were problems already, as after a syntax error. */
  readonly root: Field;
  readonly #text: string;
  readonly #env: Environment;
  #document: Document | null = null;

  constructor(text: string, env: Environment) {
    this.#text = text;
    this.#env = env;
    this.root = this.#parse();
  }

  report(where: Field | number, message: string): void {
    const offset = typeof where === "number" ? where : where.offset;
    const subject = typeof where === "number" ? "" : `${where.path === "" ? "the file" : where.path} `;
    this.problems.push({ ...this.#position(offset), message: `${subject}${message}` });
  }

  /** The fields of a mapping. Unknown keys, and required ones that are missing, are reported. */
  mapping<K extends string>(
    field: Field | undefined,
    keys: { readonly required: readonly K[]; readonly optional: readonly K[] },
  ): Partial<Record<K, Field>> | undefined {
    if (field === undefined) {
      return undefined;
    }
    if (!isMap(field.node)) {
      const known = keys.required.length === 0 ? keys.optional : keys.required;
      this.report(field, `must be a mapping with the keys ${known.join(", ")}`);
      return undefined;
    }
    const known: readonly string[] = [...keys.required, ...keys.optional];
    const fields: Partial<Record<string, Field>> = {};
    for (const { key, value } of field.node.items) {
      const name = isScalar(key) && typeof key.value === "string" ? key.value : null;
      const offset = this.#offsetOf(key as Node | null, field.offset);
      if (name === null || !known.includes(name)) {
        this.#unknownKey(offset, name, known);
        continue;
      }
      const path = field.path === "" ? name : `${field.path}.${name}`;
      fields[name] = this.#field(path, value as Node | null, offset);
    }
    for (const key of keys.required) {
      if (fields[key] === undefined) {
        this.report(field, `has no "${key}"`);
      }
    }
    return fields;
  }

  /** The elements of a list. */
  sequence(field: Field | undefined): readonly Field[] | undefined {
    if (field === undefined) {
      return undefined;
    }
    if (!isSeq(field.node)) {
      this.report(field, "must be a list");
      return undefined;
    }
    return field.node.items.map((item, index) =>
      this.#field(`${field.path}[${index}]`, item as Node | null, field.offset),
    );
  }

  /** A text with its variables filled in. */
  text(field: Field | undefined): Text | undefined {
    if (field === undefined) {
      return undefined;
    }
    const value: unknown = isScalar(field.node) ? field.node.value : undefined;
    if (typeof value !== "string" || value === "") {
      this.report(field, value === "" ? "is empty" : "must be a text (quote it if it looks like a number)");
      return undefined;
    }
    const filled = interpolate(value, this.#env);
    if (filled.problem !== undefined) {
      this.report({ ...field, offset: this.#find(field, filled.at) }, filled.problem);
      return undefined;
    }
    return { value: filled.text, shown: value };
  }

  /** The name of a region or a token. */
  label(field: Field | undefined): string | undefined {
    const text = this.text(field);
    if (field === undefined || text === undefined) {
      return undefined;
    }
    if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(text.value)) {
      const rule = 'letters, digits, ".", "_" and "-", at most 63';
      this.report(field, `must be made of ${rule}; it is ${quote(text.shown)}`);
      return undefined;
    }
    return text.value;
  }

  /** A finite number, which may also come out of a variable. */
  number(field: Field | undefined): number | undefined {
    if (field === undefined) {
      return undefined;
    }
    const value: unknown = isScalar(field.node) ? field.node.value : undefined;
    if (typeof value === "number" && Number.isFinite(value)) {
      return value;
    }
    if (typeof value === "string" && value.includes("${")) {
      const text = this.text(field);
      const parsed = text === undefined || text.value.trim() === "" ? NaN : Number(text.value);
      if (text === undefined || Number.isFinite(parsed)) {
        return text === undefined ? undefined : parsed;
      }
    }
    this.report(field, "must be a number");
    return undefined;
  }

  /** A whole number within its bounds; what is left out, or wrong, has its usual value. */
  wholeNumber(field: Field | undefined, { usual, least, most }: Bound): number {
    const value = this.number(field);
    if (field === undefined || value === undefined) {
      return usual;
    }
    if (!Number.isInteger(value) || value < least || value > most) {
      this.report(field, `must be a whole number from ${least} to ${most}`);
      return usual;
    }
    return value;
  }

  /** true or false, which may also come out of a variable. */
  flag(field: Field | undefined): boolean | undefined {
    if (field === undefined) {
      return undefined;
    }
    const value: unknown = isScalar(field.node) ? field.node.value : undefined;
    if (typeof value === "boolean") {
      return value;
    }
    const text = typeof value === "string" && value.includes("${") ? this.text(field)?.value : "";
    if (text === "true" || text === "false") {
      return text === "true";
    }
    if (text !== undefined) {
      this.report(field, "must be true or false");
    }
    return undefined;
  }

  /** One of a few words. */
  choice<C extends string>(field: Field | undefined, choices: readonly C[]): C | undefined {
    const text = this.text(field);
    if (field === undefined || text === undefined) {
      return undefined;
    }
    const found = choices.find((choice) => choice === text.value);
    if (found === undefined) {
      const meant = suggest(text.shown, choices);
      const hint = meant === undefined ? "" : `; did you mean "${meant}"?`;
      this.report(field, `must be one of ${choices.join(", ")}, not ${quote(text.shown)}${hint}`);
    }
    return found;
  }

  #unknownKey(offset: number, name: string | null, known: readonly string[]): void {
    const meant = name === null ? undefined : suggest(name, known);
    const shown = name === null || !quotable(name) ? "this key" : `the key ${JSON.stringify(name)}`;
    const hint = meant === undefined ? `known are ${known.join(", ")}` : `did you mean "${meant}"?`;
    this.report(offset, `${shown} is not known here; ${hint}`);
  }

  #parse(): Field {
    const empty: Field = { path: "", node: null, offset: 0 };
    if (this.#text.length > maxCharacters) {
      this.report(0, `the file is longer than ${maxCharacters} characters`);
      return empty;
    }
    try {
      const document = parseDocument(this.#text, { prettyErrors: false, logLevel: "error" });
      this.#document = document;
      this.#reportSyntax([...document.errors, ...document.warnings]);
      return this.#field("", document.contents, 0);
    } catch {
      // The parser recurses, so a text of a hundred thousand brackets overflows its stack.
      this.report(0, "the file cannot be read as YAML");
      return empty;
    }
  }

  /** One per line and no more than a few: one slip makes the parser stumble over much of what follows. */
  #reportSyntax(errors: readonly YAMLError[]): void {
    const ordered = errors.toSorted((a, b) => a.pos[0] - b.pos[0]);
    for (const { pos, code } of ordered) {
      if (
        this.problems.length < maxSyntaxProblems &&
        this.problems.at(-1)?.line !== this.#position(pos[0]).line
      ) {
        this.report(pos[0], `not valid YAML: ${syntax[code] ?? "unexpected text here"}`);
      }
    }
  }

  #field(path: string, node: Node | null, parentOffset: number): Field {
    const offset = this.#offsetOf(node, parentOffset);
    if (isAlias(node) && this.#document !== null) {
      return { path, node: node.resolve(this.#document) ?? null, offset };
    }
    return { path, node, offset };
  }

  #position(offset: number): { line: number; column: number } {
    const before = this.#text.slice(0, Math.max(offset, 0));
    return { line: before.split("\n").length, column: before.length - before.lastIndexOf("\n") };
  }

  #offsetOf(node: Node | null, otherwise: number): number {
    return node?.range?.[0] ?? otherwise;
  }

  /** Where in the field's own text something stands; its beginning if escapes hide it. */
  #find(field: Field, text: string): number {
    const end = field.node?.range?.[1] ?? field.offset;
    const at = this.#text.indexOf(text, field.offset);
    return at >= 0 && at < end ? at : field.offset;
  }
}
