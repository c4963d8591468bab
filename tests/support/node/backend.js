// A backend on Node's `ws`: answers each request with a stream of messages, like backends.py.
"use strict";
const fs = require("node:fs");
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: true });
server.on("listening", () => console.log(server.address().port));
server.on("connection", (socket) => {
  socket.on("message", (data, isBinary) => {
    if (isBinary) return socket.send(data);
    const request = JSON.parse(data);
    const audio = fs.readFileSync(request.path).subarray(0, request.limit ?? undefined);
    for (let at = 0, n = 0; at < audio.length; at += request.size, n++) {
      if (n % 3 === 0) socket.send(JSON.stringify({ type: "text", n }));
      if (request.own_pairs)
        socket.send(JSON.stringify({ type: "audio_chunk_compressed", algorithm: "own", n }));
      socket.send(audio.subarray(at, at + request.size));
    }
    socket.send("end");
  });
});
