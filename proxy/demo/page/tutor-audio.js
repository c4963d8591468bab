// Opens a WebSocket that asks for compressed audio. What the backend sent is called back in the
// order in which it was sent: text as strings, audio decoded, as ArrayBuffers.
export function openAudioSocket(url, { onText, onAudio, onError, onClose, algorithms = "gzip" }) {
  const mark = url.includes("?") ? "&" : "?";
  const socket = new WebSocket(`${url}${mark}audio_compression=${algorithms}`);
  socket.binaryType = "arraybuffer";
  let metadata = null; // of the binary message that comes next
  let last = Promise.resolve(); // decoding takes time: each message waits for the one before
  const inOrder = (work) => { last = last.then(work).catch(onError); };
  const unpaired = () => { if (metadata) inOrder(() => { throw new Error("audio is missing"); }); };

  socket.onmessage = ({ data }) => {
    if (typeof data === "string") {
      unpaired();
      metadata = data.startsWith('{"type":"audio_chunk_compressed"') ? JSON.parse(data) : null;
      if (!metadata) inOrder(() => onText(data));
    } else {
      const pair = metadata;
      metadata = null;
      inOrder(async () => onAudio(pair ? await decode(data, pair) : data));
    }
  };
  socket.onclose = (event) => { unpaired(); inOrder(() => onClose?.(event)); };
  return socket;
}

async function decode(data, { algorithm, original_size }) {
  if (algorithm !== "gzip") throw new Error(`no decoder for ${algorithm}`);
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"));
  const audio = await new Response(stream).arrayBuffer();
  if (audio.byteLength !== original_size) throw new Error("the audio has a wrong size");
  return audio;
}
