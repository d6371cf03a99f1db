/** Wakes whoever waits for a change. */
export class Bell {
  #next = Promise.withResolvers<void>();

  ring(): void {
    this.#next.resolve();
    this.#next = Promise.withResolvers();
  }

  /**
   * Resolves with the next `ring`, or when the signal is aborted (also that of another who waits: look again what has
   * changed). Leaves nothing at the signal, which may outlive many waits.
   */
  async rung(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    const ring = (): void => this.ring();
    signal.addEventListener("abort", ring, { once: true });
    await this.#next.promise;
    signal.removeEventListener("abort", ring);
  }
}
