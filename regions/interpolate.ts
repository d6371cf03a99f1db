export type Environment = Readonly<Record<string, string | undefined>>;

export type Interpolated =
  | { readonly text: string; readonly problem?: never }
  | { readonly problem: string; readonly at: string };

const reference = /\$\$\{|\$\{(?<name>[A-Za-z_][A-Za-z0-9_]*)\}|\$\{/g;

/**
 * Replaces `${NAME}` by the variable; `$${` stands for a plain `${`. Values are not looked at again, so a variable
 * that holds `${` is taken as it is. `at` is the text at fault, for finding its place in the file.
 */
export const interpolate = (text: string, env: Environment): Interpolated => {
  let problem: Interpolated | undefined;
  const result = text.replace(reference, (found, name: string | undefined) => {
    if (found === "$${") {
      return "${";
    }
    if (name === undefined) {
      problem ??= { problem: "has a ${ that is not ${NAME}: write $${ for a plain ${", at: found };
      return "";
    }
    const value = Object.hasOwn(env, name) ? env[name] : undefined;
    if (value === undefined) {
      problem ??= { problem: `needs the environment variable ${name}, which is not set`, at: found };
    }
    return value ?? "";
  });
  return problem ?? { text: result };
};
