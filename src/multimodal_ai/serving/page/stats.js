// What stands under an answer.

/** Tokens, times and context in one line. `first` and `end`: ms since the request; `context`: null for several turns. */
export function statsLine(usage, first, end, context) {
  const parts = [];
  if (first !== null) parts.push(`first token after ${Math.round(first)} ms`);
  if (usage) {
    const { completion_tokens: written, prompt_tokens: read } = usage;
    const writing = end - first; // in a few ms nothing was written token by token, but forced, or sent in one go
    const rate = first !== null && writing > 5 ? ((written - 1) / writing) * 1000 : null;
    if (rate) parts.push(`${rate >= 10 ? Math.round(rate) : rate.toFixed(1)} tokens/s`);
    parts.push(`${written} tokens`);
    if (context === null) parts.push(`${read} tokens read`);
    else parts.push(context ? `context ${read} of ${context} (${Math.round((100 * read) / context)}%)` : `context ${read}`);
    if (usage.x_dropped_turns) parts.push(`the oldest ${usage.x_dropped_turns} turns no longer fit`);
  }
  return parts.join(" · ");
}
