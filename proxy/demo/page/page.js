import { PcmPlayer } from "./player.js";
import { openAudioSocket } from "./tutor-audio.js";

const find = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");

let answer = null; // the one in work, or the last

// Bytes of an unmasked frame with such a payload (RFC 6455 section 5.2).
function framed(size) {
  return size + (size < 126 ? 2 : size < 65536 ? 4 : 10);
}

function sizeOf(data) {
  return typeof data === "string" ? new TextEncoder().encode(data).length : data.byteLength;
}

function say(text, wrong = false) {
  find("status").textContent = text;
  find("status").classList.toggle("wrong", wrong);
}

// Counts bytes: what the socket gave, and what the backend had sent.
class Meter {
  received = 0;
  original = 0;
  chunks = 0;
  compressed = 0;
  #metadata = 0; // the bytes of what was announced
  #arrived = []; // the bytes of each message that is still to be decoded

  constructor() {
    find("columns").replaceChildren();
    find("messages").replaceChildren();
    find("deflate").hidden = true;
    this.show();
  }

  // A message, as the socket gave it.
  wire(data) {
    const size = framed(sizeOf(data));
    if (typeof data === "string" && data.startsWith('{"type":"audio_chunk_compressed"')) {
      this.#list("metadata", data);
      this.#metadata = size;
      return;
    }
    if (typeof data === "string") this.#list("text", data);
    else if (this.#metadata) this.#list("compressed", `${number(data.byteLength)} bytes of audio`);
    else this.#list("plain", `${number(data.byteLength)} bytes of audio`);
    this.#arrived.push([this.#metadata, size]);
    this.#metadata = 0;
  }

  // The same message, as the backend sent it.
  decoded(data) {
    const size = framed(sizeOf(data));
    const [metadata, rest] = this.#arrived.shift();
    this.original += size;
    this.received += metadata + rest;
    if (typeof data !== "string") {
      this.chunks += 1;
      if (metadata) this.compressed += 1;
      const column = document.createElement("i");
      column.style.setProperty("--part", `${(100 * (metadata + rest)) / size}%`);
      find("columns").append(column);
    }
    this.show();
  }

  show() {
    const { received, original, chunks, compressed } = this;
    const share = original ? received / original : 0;
    const percent = (100 * (1 - share)).toFixed(1);
    find("received").textContent = number(received);
    find("original").textContent = number(original);
    find("saved").textContent = original ? `${percent} %` : "–";
    find("saved-bytes").textContent = original ? `${number(original - received)} bytes` : "";
    find("chunks").textContent = `${number(compressed)} of ${number(chunks)}`;
    find("bar").firstElementChild.style.width = `${100 * share}%`;
    if (original) {
      find("bar").setAttribute("aria-label", `Received ${(100 * share).toFixed(1)} % of the original`);
    }
  }

  #list(kind, text) {
    const item = document.createElement("li");
    item.className = kind;
    const label = document.createElement("b");
    label.textContent = kind;
    const content = document.createElement("span");
    content.textContent = text;
    item.append(label, content);
    const list = find("messages");
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
    list.append(item);
    if (atEnd) list.scrollTop = list.scrollHeight;
  }
}

// One question and its answer, on a connection of its own.
class Answer {
  #audio = []; // the chunks, decoded
  #start = null; // what the tutor said of the answer
  #context = null;
  #player = null;
  #over = false;
  #summary = "";

  constructor(text, format, algorithms) {
    this.meter = new Meter();
    const url = new URL("ws/tutor", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    this.socket = openAudioSocket(url.href, {
      algorithms,
      onText: (data) => this.#onText(data),
      onAudio: (chunk) => this.#onAudio(chunk),
      onError: (error) => this.#fail(error.message),
      onClose: (event) => this.#fail(`The connection closed (${event.code}).`),
    });
    const deliver = this.socket.onmessage;
    this.socket.onmessage = (event) => {
      this.meter.wire(event.data); // what came is counted before it is decoded
      deliver(event);
    };
    this.socket.addEventListener("open", () => {
      find("deflate").hidden = !this.socket.extensions.includes("permessage-deflate");
      this.socket.send(JSON.stringify({ type: "question", text, format }));
      say("Waiting for the answer…");
    });
  }

  // Ends it, wherever it is.
  stop() {
    this.#over = true;
    this.socket.close();
    this.#silence();
  }

  // Plays the whole answer once more.
  async replay() {
    this.#silence();
    working(true);
    await this.#playAll();
  }

  #onText(data) {
    if (this.#over) return;
    this.meter.decoded(data);
    const message = JSON.parse(data);
    if (message.type === "answer_start") this.#begin(message);
    else if (message.type === "answer_end") this.#finish(message);
    else if (message.type === "error") this.#fail(`The tutor says: ${message.message}`);
  }

  #onAudio(chunk) {
    if (this.#over) return;
    this.meter.decoded(chunk);
    this.#audio.push(chunk);
    this.#player?.play(chunk);
  }

  #begin(start) {
    this.#start = start;
    find("answer").textContent = start.text;
    say("The tutor answers…");
    if (start.format === "pcm") {
      this.#context = new AudioContext({ sampleRate: start.sample_rate });
      this.#player = new PcmPlayer(this.#context, start.channels);
    }
  }

  #finish({ chunks, seconds }) {
    this.#over = true;
    this.socket.close();
    find("again").disabled = false;
    this.#summary = `${number(chunks)} chunks, ${seconds.toFixed(1)} s of speech`;
    if (this.#player) this.#follow(this.#player.last);
    else this.#playAll();
  }

  async #playAll() {
    const context = new AudioContext({ sampleRate: this.#start.sample_rate });
    this.#context = context;
    try {
      if (this.#start.format === "pcm") {
        const player = new PcmPlayer(context, this.#start.channels);
        this.#audio.forEach((chunk) => player.play(chunk));
        this.#follow(player.last);
      } else {
        const source = context.createBufferSource();
        source.buffer = await context.decodeAudioData(await new Blob(this.#audio).arrayBuffer());
        if (this.#context !== context) return; // stopped meanwhile
        source.connect(context.destination);
        source.start();
        this.#follow(source);
      }
    } catch (error) {
      if (this.#context !== context) return;
      working(false);
      say(`It cannot be played: ${error.message}`, true);
    }
  }

  // Says what is played until `node`, the last one, has ended.
  #follow(node) {
    const context = this.#context;
    const tell = () => {
      if (this.#context !== context) return;
      const hint = "Press Play again to hear it."; // where a browser wants a press of its own
      say(`${this.#summary}. ${context.state === "running" ? "Playing." : hint}`);
    };
    context.addEventListener("statechange", tell);
    tell();
    node.addEventListener("ended", () => {
      if (this.#context !== context) return;
      this.#silence();
      working(false);
      say(`${this.#summary}. Played.`);
    });
  }

  #silence() {
    this.#context?.close();
    this.#context = null;
    this.#player = null;
  }

  #fail(text) {
    if (this.#over) return;
    this.stop();
    working(false);
    say(text, true);
  }
}

// Whether there is something to stop.
function working(yes) {
  const stop = find("stop");
  if (!yes && document.activeElement === stop) find("ask").focus(); // a disabled button has none
  stop.disabled = !yes;
}

find("form").addEventListener("submit", (event) => {
  event.preventDefault();
  answer?.stop();
  const fields = new FormData(event.target);
  say("Connecting…");
  working(true);
  find("again").disabled = true;
  answer = new Answer(
    fields.get("question"), fields.get("format"), fields.has("compress") ? "gzip" : "",
  );
});

find("stop").addEventListener("click", () => {
  answer.stop();
  working(false);
  say("Stopped.");
});

find("again").addEventListener("click", () => answer.replay());
