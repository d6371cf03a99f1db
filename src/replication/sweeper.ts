import type { KeySet } from "./merge-keys.ts";
export class Sweeper {
  add(_keys: KeySet): void {}
}
