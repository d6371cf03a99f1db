/**
 * Names that statements, triggers and their functions use themselves: as variables, aliases and columns of their own.
 * As many as a primary key takes.
 */
export const takenNames: readonly string[] = (
  "role entombed found new old tg_op sqlstate inserted gone v v_ prev seen base highest authority upon_row " +
  "d_base d_version d_seen k d o x cur excluded key kind lost floor state applied"
).split(" ");
