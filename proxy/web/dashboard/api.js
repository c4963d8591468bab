// The admin port: JSON over fetch, with the token where one is needed.

const TIMEOUT = 5000; // milliseconds; the proxy answers in some
const KEY = "audio-proxy-token";

/** The proxy refused, and said why. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Makes requests. `onUnauthorized` is called when the token is missing or wrong. */
export class Api {
  /** Milliseconds that the proxy's clock is before the browser's. */
  clockOffset = 0;
  #onUnauthorized;

  constructor(onUnauthorized) {
    this.#onUnauthorized = onUnauthorized;
  }

  /** The answer to GET; `path` is relative to the page. Raises Refusal, or TypeError and the like
   * where there is no answer. */
  get(path, signal) {
    return this.#request("GET", path, undefined, signal);
  }

  /** The answer to PATCH. */
  patch(path, body) {
    return this.#request("PATCH", path, body);
  }

  /** Whether the proxy takes this token; it is kept for this tab if it does. */
  async tryToken(token) {
    if (!/^[\x21-\x7e]+$/.test(token)) return false; // none that a header could carry
    const response = await this.#fetch("GET", "flags", token);
    if (response.status === 401) return false;
    sessionStorage.setItem(KEY, token);
    return true;
  }

  async #request(method, path, body, signal) {
    const response = await this.#fetch(method, path, sessionStorage.getItem(KEY), body, signal);
    const date = Date.parse(response.headers.get("Date"));
    if (date) this.clockOffset = date - Date.now();
    if (response.ok) return response.json();
    if (response.status === 401) this.#onUnauthorized();
    const answer = await response.json().catch(() => ({}));
    throw new Refusal(response.status, answer.error ?? `the proxy answered ${response.status}`);
  }

  #fetch(method, path, token, body, signal) {
    const headers = { "X-Audio-Proxy-Client": "dashboard" };
    if (token) headers.Authorization = `Bearer ${token}`;
    if (body) headers["Content-Type"] = "application/json";
    const timeout = AbortSignal.timeout(TIMEOUT);
    return fetch(path, {
      method,
      headers,
      body: body && JSON.stringify(body),
      cache: "no-store",
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    });
  }
}
