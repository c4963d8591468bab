/* gzip (RFC 1952) of samples by Huffman coding alone (RFC 1951, 3.2.7): what zlib calls
   Z_HUFFMAN_ONLY. In speech as PCM hardly anything repeats: on chunks of 4 KiB, looking for it saves
   0.2 % of the bytes, and takes most of the time. Where more could repeat, another encoder is asked.

   The checksum is another's too. Nothing is kept between two calls. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 14336      /* bytes that have a code of their own, at most: 16 KiB have two, 64 five */
#define LITERALS 257     /* the values of a byte, and the end of a block */
#define END_OF_BLOCK 256
#define DISTANCES 2      /* there are none; decoders want a complete code */
#define LENGTHS (LITERALS + DISTANCES)
#define LONGEST 14       /* bits of a code: deflate allows 15, but four are to fit in a word */
#define OFTEN 255        /* times that a symbol occurs: up to here they are sorted by counting */
#define LENGTH_CODES 19
#define LONGEST_LENGTH_CODE 7
#define HEAD_SIZE 10
#define TAIL_SIZE 8
/* At most: a block's header has 17 bits, 3 for each length code, and 7 and 7 for each length. */
#define BLOCK_HEADER_SIZE ((17 + 3 * LENGTH_CODES + 14 * LENGTHS) / 8 + 1)
#define LARGEST (64 * 1024) /* bytes: 0.06 ms, for which it has the GIL, in whatever thread */
/* The share of its size that quiet speech is made, at least: less is silence, and repeats. (Between
   0.17 and 0.3, ISA-L makes a tenth more of it.) */
#define REPEATS 0.15

typedef struct {
    uint16_t code; /* its first bit is the lowest */
    uint16_t length;
} Code;

typedef struct {
    unsigned char *at;
    const unsigned char *end;
    uint64_t held; /* fewer than 8 bits between two calls */
    int count;
} Bits;

/* Writes the 8 bytes at `bits->at`, of which what is held counts. */
static inline void flush_bits(Bits *bits)
{
    uint64_t held = bits->held;
#if PY_LITTLE_ENDIAN
    memcpy(bits->at, &held, sizeof held);
#else
    for (int i = 0; i < 8; i++)
        bits->at[i] = (unsigned char)(held >> 8 * i);
#endif
    bits->at += bits->count >> 3;
    bits->held = held >> (bits->count & ~7);
    bits->count &= 7;
}

static inline void hold_bits(Bits *bits, uint32_t value, int count)
{
    bits->held |= (uint64_t)value << bits->count;
    bits->count += count;
}

static inline void put_bits(Bits *bits, uint32_t value, int count)
{
    hold_bits(bits, value, count);
    flush_bits(bits);
}

/* The used among `size` symbols, the rarest first: count << 9 | symbol. Returns how many. */
static int sort_symbols(const uint32_t *counts, int size, uint32_t *sorted)
{
    uint32_t places[OFTEN + 1] = {0}, place = 0;
    for (int symbol = 0; symbol < size; symbol++)
        places[counts[symbol] < OFTEN ? counts[symbol] : OFTEN]++;
    places[0] = 0;
    for (int count = 1; count <= OFTEN; count++) {
        uint32_t here = places[count];
        places[count] = place;
        place += here;
    }
    int rare = (int)places[OFTEN], used = rare;
    for (int symbol = 0; symbol < size; symbol++) {
        uint32_t count = counts[symbol], entry = count << 9 | symbol;
        if (count >= OFTEN) { /* few are: BLOCK / OFTEN */
            int at = used++;
            for (; at > rare && sorted[at - 1] > entry; at--)
                sorted[at] = sorted[at - 1];
            sorted[at] = entry;
        } else if (count) {
            sorted[places[count]++] = entry;
        }
    }
    return used;
}

/* How many codes of each length there are, of `used` symbols (2 and more), sorted by frequency.

   Huffman's algorithm with two queues, as leaves and inner nodes both come in order. The two lightest
   are two leaves, two inner nodes or one of each: which, nobody can foretell, so nothing branches by
   it. Inner nodes of one depth stand in a row, the root last. Codes that are too long are made
   shorter, others longer, until they fit again (Kraft's inequality). */
static void count_lengths(const uint32_t *sorted, int used, int longest, int *of_length)
{
    uint32_t leaves[LITERALS + 2], inner[LITERALS + 1];
    int16_t parents[LITERALS + 1]; /* of inner nodes */
    int root = used - 2;
    size_t leaf = 0, node = 0;
    for (int i = 0; i < used; i++)
        leaves[i] = sorted[i] >> 9;
    leaves[used] = leaves[used + 1] = UINT32_MAX; /* there are no more */
    memset(inner, 0xFF, sizeof inner);
    for (int next = 0; next <= root; next++) {
        uint32_t light = leaves[leaf], other = leaves[leaf + 1];
        uint32_t old = inner[node], older = inner[node + 1];
        size_t both = other <= old, none = older < light;
        parents[node] = parents[node + 1] = (int16_t)next; /* the last word is that of who takes it */
        inner[next] = (none ? older : light) + (both ? other : old);
        leaf += 1 + both - none;
        node += 1 + none - both;
    }
    memset(of_length, 0, (longest + 1) * sizeof *of_length);
    for (int depth = 1, first = root, inside = 1; inside; depth++) {
        int below = first;
        while (below > 0 && parents[below - 1] >= first)
            below--;
        of_length[depth < longest ? depth : longest] += 2 * inside - (first - below);
        inside = first - below;
        first = below;
    }
    int32_t room = 1 << longest;
    for (int length = 1; length <= longest; length++)
        room -= of_length[length] << (longest - length);
    for (; room < 0; room++) { /* one of the longest becomes the brother of a shorter one */
        int length = longest - 1;
        while (!of_length[length])
            length--;
        of_length[length]--;
        of_length[length + 1] += 2;
        of_length[longest]--;
    }
}

static uint16_t reverse(uint32_t code, int length)
{
    code = (code & 0x5555) << 1 | (code >> 1 & 0x5555);
    code = (code & 0x3333) << 2 | (code >> 2 & 0x3333);
    code = (code & 0x0F0F) << 4 | (code >> 4 & 0x0F0F);
    code = (code & 0x00FF) << 8 | (code >> 8 & 0x00FF);
    return (uint16_t)(code >> (16 - length));
}

/* The codes of `size` symbols, at least two of which are used (RFC 1951, 3.2.2). */
static void build_codes(const uint32_t *counts, int size, int longest, Code *codes)
{
    uint32_t sorted[LITERALS], next[LONGEST + 1], code = 0;
    int of_length[LONGEST + 1], at = sort_symbols(counts, size, sorted);
    count_lengths(sorted, at, longest, of_length);
    memset(codes, 0, size * sizeof *codes);
    for (int length = 1; length <= longest; length++) {
        next[length] = code;
        code = (code + of_length[length]) << 1;
        for (int i = 0; i < of_length[length]; i++)
            codes[sorted[--at] & 511].length = (uint16_t)length;
    }
    for (int symbol = 0; symbol < size; symbol++)
        if (codes[symbol].length)
            codes[symbol].code = reverse(next[codes[symbol].length]++, codes[symbol].length);
}

/* A block's header: the lengths of its codes, of which runs are told (RFC 1951, 3.2.7). Few stand in
   a run of three: asked for in one go, that is foretold. */
static void write_block_header(Bits *bits, const Code *codes, int is_last)
{
    static const unsigned char order[LENGTH_CODES] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                                      11, 4,  12, 3, 13, 2, 14, 1, 15};
    static const unsigned char extra_bits[LENGTH_CODES] = {[16] = 2, [17] = 3, [18] = 7};
    unsigned char padded[1 + LENGTHS + 2], *lengths = padded + 1; /* with what no length is */
    unsigned char symbols[LENGTHS], extras[LENGTHS];
    uint32_t counts[LENGTH_CODES] = {0};
    Code length_codes[LENGTH_CODES];
    int count = 0;
    padded[0] = lengths[LENGTHS] = lengths[LENGTHS + 1] = 255;
    for (int i = 0; i < LITERALS; i++)
        lengths[i] = (unsigned char)codes[i].length;
    memset(lengths + LITERALS, 1, DISTANCES);
    for (int i = 0, run; i < LENGTHS; i += run) {
        int length = lengths[i], symbol = length, extra = 0;
        run = 1;
        if ((lengths[i + 1] == length) & (lengths[i + 2] == length) &
            (!length | (lengths[i - 1] == length))) {
            int most = length ? 6 : 138;
            for (run = 3; run < most && lengths[i + run] == length;)
                run++;
            symbol = length ? 16 : run < 11 ? 17 : 18;
            extra = run - (symbol == 18 ? 11 : 3);
        }
        symbols[count] = (unsigned char)symbol;
        extras[count++] = (unsigned char)extra;
        counts[symbol]++;
    }
    build_codes(counts, LENGTH_CODES, LONGEST_LENGTH_CODE, length_codes);
    int told = LENGTH_CODES;
    while (told > 4 && !length_codes[order[told - 1]].length)
        told--;
    put_bits(bits, is_last | 2 << 1 | (LITERALS - 257) << 3 | (DISTANCES - 1) << 8 | (told - 4) << 13,
             17);
    for (int i = 0; i < told; i++)
        put_bits(bits, length_codes[order[i]].length, 3);
    Bits here = *bits;
    for (int i = 0; i < count; i++) {
        Code code = length_codes[symbols[i]];
        hold_bits(&here, code.code | extras[i] << code.length, code.length + extra_bits[symbols[i]]);
        if (i % 4 == 3) /* of 14 bits at most each */
            flush_bits(&here);
    }
    flush_bits(&here);
    *bits = here;
}

/* How often each value occurs. Four counts: the same value twice in a row need not wait. */
static void count_bytes(const unsigned char *data, int size, uint32_t *counts)
{
    uint32_t some[4][256] = {0};
    const unsigned char *end = data + size;
    for (; end - data >= 8; data += 8) {
        uint64_t bytes; /* in whatever order */
        memcpy(&bytes, data, sizeof bytes);
        some[0][bytes & 255]++, some[1][bytes >> 8 & 255]++;
        some[2][bytes >> 16 & 255]++, some[3][bytes >> 24 & 255]++;
        some[0][bytes >> 32 & 255]++, some[1][bytes >> 40 & 255]++;
        some[2][bytes >> 48 & 255]++, some[3][bytes >> 56]++;
    }
    while (data < end)
        some[0][*data++]++;
    for (int value = 0; value < 256; value++)
        counts[value] = some[0][value] + some[1][value] + some[2][value] + some[3][value];
    counts[END_OF_BLOCK] = 1;
}

/* Whether a block of 1 to BLOCK bytes has been written; 0 where more may repeat, or it has no
   place. */
static int write_block(Bits *bits, const unsigned char *data, int size, int is_last)
{
    uint32_t counts[LITERALS];
    Code codes[LITERALS];
    count_bytes(data, size, counts);
    build_codes(counts, LITERALS, LONGEST, codes);
    uint32_t total = 0;
    for (int i = 0; i < LITERALS; i++)
        total += counts[i] * codes[i].length;
    if (total < REPEATS * 8 * size || total / 8 + BLOCK_HEADER_SIZE + 8 > bits->end - bits->at)
        return 0;
    write_block_header(bits, codes, is_last);
    Bits here = *bits;
    const unsigned char *end = data + size;
    for (; end - data >= 4; data += 4) { /* two and two: they wait for each other less */
        Code a = codes[data[0]], b = codes[data[1]], c = codes[data[2]], d = codes[data[3]];
        hold_bits(&here, a.code | (uint32_t)b.code << a.length, a.length + b.length);
        hold_bits(&here, c.code | (uint32_t)d.code << c.length, c.length + d.length);
        flush_bits(&here);
    }
    for (; data < end; data++)
        put_bits(&here, codes[*data].code, codes[*data].length);
    put_bits(&here, codes[END_OF_BLOCK].code, codes[END_OF_BLOCK].length);
    *bits = here;
    return 1;
}

static void write_little_endian(unsigned char *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(value >> 8 * i);
}

/* The gzip member; NULL with an exception set, or without where more may repeat. */
static PyObject *encode(const unsigned char *data, Py_ssize_t size, uint32_t checksum)
{
    static const unsigned char head[HEAD_SIZE] = {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255};
    Py_ssize_t blocks = (size + BLOCK - 1) / BLOCK, step = (size + blocks - 1) / blocks;
    Py_ssize_t most = size / 8 * 9 + blocks * (BLOCK_HEADER_SIZE + 16) + HEAD_SIZE + TAIL_SIZE;
    PyObject *encoded = PyBytes_FromStringAndSize(NULL, most);
    if (encoded == NULL)
        return NULL;
    unsigned char *start = (unsigned char *)PyBytes_AS_STRING(encoded);
    memcpy(start, head, HEAD_SIZE);
    Bits bits = {start + HEAD_SIZE, start + most - TAIL_SIZE, 0, 0};
    for (Py_ssize_t at = 0; at < size; at += step) {
        Py_ssize_t left = size - at;
        if (!write_block(&bits, data + at, (int)(left < step ? left : step), left <= step)) {
            Py_DECREF(encoded);
            return NULL;
        }
    }
    bits.count += 7; /* to the end of the last byte */
    flush_bits(&bits);
    write_little_endian(bits.at, checksum);
    write_little_endian(bits.at + 4, (uint32_t)size);
    _PyBytes_Resize(&encoded, bits.at + TAIL_SIZE - start);
    return encoded;
}

/* compress(data, crc32, otherwise, *rest) */
static PyObject *huffman_compress(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    enum { DATA, CRC32, OTHERWISE, REST };
    PyObject *found = NULL;
    if (count < REST)
        return PyErr_Format(PyExc_TypeError, "compress takes 3 arguments and more, not %zd", count);
    Py_buffer data;
    if (PyObject_GetBuffer(args[DATA], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    if (data.len && data.len <= LARGEST) {
        PyObject *checksum = PyObject_CallOneArg(args[CRC32], args[DATA]);
        unsigned long value = checksum == NULL ? 0 : PyLong_AsUnsignedLongMask(checksum);
        Py_XDECREF(checksum);
        if (!PyErr_Occurred())
            found = encode(data.buf, data.len, (uint32_t)value);
    }
    PyBuffer_Release(&data);
    if (found != NULL || PyErr_Occurred())
        return found;
    PyObject *others[8];
    if (count - REST + 1 > (Py_ssize_t)(sizeof others / sizeof *others))
        return PyErr_Format(PyExc_TypeError, "too many arguments: %zd", count);
    others[0] = args[DATA];
    memcpy(others + 1, args + REST, (count - REST) * sizeof *others);
    return PyObject_Vectorcall(args[OTHERWISE], others, count - REST + 1, NULL);
}

static PyMethodDef methods[] = {
    {"compress", (PyCFunction)(void (*)(void))huffman_compress, METH_FASTCALL, NULL},
    {NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "proxy.audio.huffman",
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit_huffman(void) { return PyModule_Create(&module); }
