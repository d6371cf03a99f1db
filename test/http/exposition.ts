/**
 * A strict reader of the Prometheus text format 0.0.4, written from its specification and not from prom-client:
 * it throws where a Prometheus server would refuse the page, and where two series or families are the same.
 */
export interface Family {
  readonly type: string;
  readonly help: string;
  readonly samples: Map<string, { readonly labels: Record<string, string>; readonly value: number }>;
}

const namePattern = "[a-zA-Z_:][a-zA-Z0-9_:]*";
const samplePattern = new RegExp(
  `^(${namePattern})(?:\\{(.*)\\})? (NaN|[+-]?Inf|[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)(?: -?[0-9]+)?$`,
);
const labelPattern = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,|$)/gy;

export const parseExposition = (page: string): Map<string, Family> => {
  if (!page.endsWith("\n")) {
    throw new Error("the last line must end with a line feed");
  }
  const families = new Map<string, Family>();
  const helps = new Map<string, string>();
  let current = "";
  for (const line of page.split("\n")) {
    const help = new RegExp(`^# HELP (${namePattern}) (.+)$`).exec(line);
    const type = new RegExp(`^# TYPE (${namePattern}) (counter|gauge|histogram|summary|untyped)$`).exec(line);
    if (help !== null) {
      unique(helps, help[1] ?? "");
      helps.set(help[1] ?? "", help[2] ?? "");
    } else if (type !== null) {
      current = type[1] ?? "";
      unique(families, current);
      families.set(current, { type: type[2] ?? "", help: helps.get(current) ?? "", samples: new Map() });
    } else if (line !== "" && !line.startsWith("# ")) {
      addSample(families.get(current), current, line);
    } else if (line.startsWith("# ")) {
      throw new Error(`a comment that is neither HELP nor TYPE: ${line}`);
    }
  }
  return families;
};

const seriesId = (labels: Record<string, string>): string =>
  JSON.stringify(Object.entries(labels).toSorted(([a], [b]) => (a < b ? -1 : 1)));

const addSample = (family: Family | undefined, current: string, line: string): void => {
  const match = samplePattern.exec(line);
  const suffix = match?.[1]?.slice(current.length) ?? "";
  const known = family?.type === "histogram" ? histogramSuffixes.has(suffix) : suffix === "";
  if (match === null || family === undefined || !match[1]?.startsWith(current) || !known) {
    throw new Error(`not a sample of ${current}: ${line}`);
  }
  const labels = { ...parseLabels(match[2] ?? ""), ...(suffix === "" ? {} : { "": suffix }) };
  const series = seriesId(labels);
  unique(family.samples, series);
  family.samples.set(series, { labels, value: Number((match[3] ?? "").replace("Inf", "Infinity")) });
};

const parseLabels = (text: string): Record<string, string> => {
  const labels: Record<string, string> = {};
  let end = 0;
  for (const match of text.matchAll(labelPattern)) {
    end = match.index + match[0].length;
    const unescaped = (match[2] ?? "").replaceAll(/\\(.)/g, (_all, c: string) => (c === "n" ? "\n" : c));
    labels[match[1] ?? ""] = unescaped;
  }
  if (end !== text.length) {
    throw new Error(`not labels: {${text}}`);
  }
  return labels;
};

const unique = (map: ReadonlyMap<string, unknown>, key: string): void => {
  if (map.has(key)) {
    throw new Error(`twice on one page: ${key}`);
  }
};

const histogramSuffixes: ReadonlySet<string> = new Set(["_bucket", "_sum", "_count"]);

/**
 * The value of one series; throws if there is none, so that a test never compares with undefined. Of a histogram, the label
 * "" is `_bucket`, `_sum` or `_count`.
 */
export const sample = (page: string, name: string, labels: Record<string, string> = {}): number => {
  const wanted = seriesId(labels);
  const found = parseExposition(page).get(name)?.samples.get(wanted);
  if (found === undefined) {
    throw new Error(`no series ${name} ${wanted} in\n${page}`);
  }
  return found.value;
};
