/**
 * `make`, whose result for an object is made once and kept as long as the object lives.
 * @param keyOf where not the object itself stands for it: one that others share which have the same result
 */
export const remembered = <Of extends object, Result>(
  make: (of: Of) => Result,
  keyOf: (of: Of) => object = (of) => of,
): ((of: Of) => Result) => {
  const results = new WeakMap<object, Result>();
  return (of) => {
    const key = keyOf(of);
    const known = results.get(key);
    if (known !== undefined) return known;
    const result = make(of);
    results.set(key, result);
    return result;
  };
};
