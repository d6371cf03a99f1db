import { startFaultProxy, type Conditions, type FaultProxy } from "../embedded/fault-proxy.ts";
import type { CutOptions } from "./options.ts";

/** Minimal standard generator: the network's chance, from a seed. */
const randomFrom = (seed: number): (() => number) => {
  let state = (Math.abs(Math.trunc(seed)) % 2_147_483_646) + 1;
  return () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
};

/** The lines between regions: a proxy for each pair (who asks, whose PostgreSQL), which is how changes are pulled. */
export class Network implements AsyncDisposable {
  readonly #proxies = new Map<
    string,
    { readonly asks: string; readonly of: string; readonly proxy: FaultProxy }
  >();
  readonly #random: () => number;
  #conditions: Partial<Conditions>;

  constructor(seed: number, conditions: Partial<Conditions>) {
    this.#random = randomFrom(seed);
    this.#conditions = conditions;
  }

  /** @returns the port at which the region `asks` reaches PostgreSQL of the region `of` */
  async connect(asks: string, of: string, targetPort: number): Promise<number> {
    const proxy = await startFaultProxy({
      target: { host: "127.0.0.1", port: targetPort },
      random: this.#random,
      toServer: this.#conditions,
      toClient: this.#conditions,
    });
    this.#proxies.set(`${asks} ${of}`, { asks, of, proxy });
    return proxy.port;
  }

  has(asks: string, of: string): boolean {
    return this.#proxies.has(`${asks} ${of}`);
  }

  /** The line by which `asks` pulls the changes of `of`. */
  proxy(asks: string, of: string): FaultProxy {
    const found = this.#proxies.get(`${asks} ${of}`);
    if (!found) throw new Error(`There is no link between the regions ${asks} and ${of}`);
    return found.proxy;
  }

  cut(from: string, to: string, { oneWay = false, mode = "blackhole" }: CutOptions): void {
    const carriesChanges = this.proxy(to, from);
    if (!oneWay) {
      carriesChanges.cut({ mode });
      this.proxy(from, to).cut({ mode });
    } else if (mode === "reset") {
      carriesChanges.cut({ mode });
    } else {
      // What `to` says still arrives: only bytes from `from` to `to` are lost.
      carriesChanges.cut({ mode, direction: "toClient" });
    }
  }

  heal(a?: string, b?: string): void {
    for (const { proxy } of this.#between(a, b)) proxy.heal();
  }

  /** Changes the lines between a and b, or all of a, or all, in both directions. */
  setConditions(conditions: Partial<Conditions>, a?: string, b?: string): void {
    if (a === undefined) this.#conditions = { ...this.#conditions, ...conditions };
    for (const { proxy } of this.#between(a, b)) proxy.setConditions(conditions);
  }

  async close(): Promise<void> {
    await Promise.all([...this.#proxies.values()].map(({ proxy }) => proxy.close()));
    this.#proxies.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #between(a?: string, b?: string): { readonly proxy: FaultProxy }[] {
    return [...this.#proxies.values()].filter(({ asks, of }) =>
      [a, b].every((name) => name === undefined || name === asks || name === of),
    );
  }
}
