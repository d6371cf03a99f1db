/** `make`, whose result for an object is made once and kept as long as the object lives. */
export const remembered = <Key extends object, Result>(
  make: (key: Key) => Result,
): ((key: Key) => Result) => {
  const results = new WeakMap<Key, Result>();
  return (key) => {
    const known = results.get(key);
    if (known !== undefined) return known;
    const result = make(key);
    results.set(key, result);
    return result;
  };
};
