// The OpenAI API, and nothing else: models, chat completions, and what went wrong in words.

/** What went wrong. `kind`: down, full, key, image, length, request, stopping, timeout, server, broken. */
export class ApiError extends Error {
  constructor(kind, message, retryAfter = null) {
    super(message);
    this.kind = kind;
    this.retryAfter = retryAfter;
  }
}

function headers(key) {
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function send(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("down", "The server cannot be reached. It may be down or starting again; your message is kept.");
  }
}

function inWords(status, error, retryAfter) {
  const said = error?.message ?? `the server answered with status ${status}`;
  const code = error?.code ?? "";
  if (status === 429) {
    return new ApiError("full", `The server is full: ${said}. Try again in ${retryAfter ?? "a few"} s.`, retryAfter);
  }
  if (status === 401) return new ApiError("key", "This server wants an API key. Put yours into the settings.");
  if (status === 503) return new ApiError("stopping", "The server is shutting down. Try again in a moment.");
  if (status === 504) return new ApiError("timeout", `The answer took too long: ${said}.`);
  if (status === 413) return new ApiError("request", "The message and its images are too large for this server.");
  if (["invalid_image", "image_too_large", "invalid_image_url"].includes(code)) {
    return new ApiError("image", `The server refused an image: ${said}`);
  }
  if (code === "context_length_exceeded") return new ApiError("length", `The conversation is too long: ${said}`);
  if (status >= 500) return new ApiError("server", `The server failed: ${said}.`);
  return new ApiError("request", `The server refused the request: ${said}`);
}

async function failure(response) {
  const body = await response.json().catch(() => null);
  const seconds = Number(response.headers.get("Retry-After"));
  return inWords(response.status, body?.error, Number.isFinite(seconds) && seconds > 0 ? seconds : null);
}

/** The model that is served: `id`, and the server's own `x_` fields. */
export async function fetchModel(key) {
  const response = await send("v1/models", { headers: headers(key) });
  if (!response.ok) throw await failure(response);
  return (await response.json()).data[0];
}

async function post(path, body, key, signal) {
  const response = await send(path, { method: "POST", headers: headers(key), body: JSON.stringify(body), signal });
  if (!response.ok) throw await failure(response);
  return response;
}

/** A chat completion in one piece. */
export async function complete(body, key, signal) {
  return await (await post("v1/chat/completions", body, key, signal)).json();
}

/** The results of the calls that the messages end with: the server runs its own functions. */
export async function runCalls(model, messages, key) {
  return (await (await post("v1/calls", { model, messages }, key)).json()).data;
}

/** The chunks of a streamed chat completion. Aborting `signal` closes the connection, which frees the server's place. */
export async function* stream(body, key, signal) {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await post("v1/chat/completions", asked, key, signal);
  for await (const data of serverSentEvents(response.body, signal)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw inWords(chunk.error.code === "timeout" ? 504 : 500, chunk.error, null);
    yield chunk;
  }
  throw new ApiError("broken", "The connection broke before the answer was complete.");
}

async function* serverSentEvents(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) if (event.startsWith("data: ")) yield event.slice(6);
    }
  } catch (error) {
    if (signal?.aborted || error.name === "AbortError") throw error;
    throw new ApiError("broken", "The connection broke before the answer was complete.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
