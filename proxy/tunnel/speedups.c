/* The hot path of a tunnel in C. All of it is in Python too, which says what it does and is used
   where this was not built: `PythonBaseLeg` in base_leg.py, `FrameWalker` in websocket/walker.py,
   and what `Repeater` stands in for: `FilteredLeg.filter`, `AudioFilter.feed_whole`,
   `Lossless.repeat`, `Encoder.spend`.

   At the pace of speech each chunk finds the caches cold, and most of what Python's interpreter
   takes is misses. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { CLOSE = 0x8, NO_CODE = 1005, LONGEST_HEADER = 14, LONGEST_CONTROL = 125 };
enum { TEXT = 0x81, BINARY = 0x82 }; /* with FIN */

/* Of `share`: where every leg reads to, and the state of a leg that may be written to. */
static PyObject *read_view;
static Py_buffer read_buffer;
static PyObject *open_state;

static unsigned long long clock_now; /* of `now` */

/* Names of attributes, and a function; all of them made when the module is. */
#define NAMES(X) \
    X(algorithm) X(cell) X(chunk) X(chunks) X(codec) X(compressed) X(compressed_bytes) X(count) \
    X(counts) X(current) X(encode_seconds) X(filter) X(firsts) X(fit) X(flags) X(gained) X(gap_seconds) \
    X(get_write_buffer_size) X(has_time) X(header) X(layout) X(level) X(min_gain) X(missed) \
    X(most) X(name) X(no_gain) X(openings) X(original_bytes) X(plain) X(policy) X(shadow) X(spend) X(spent) \
    X(steady) X(step) X(sum) X(tally) X(total) X(trial) X(unnoticed) X(wire_bytes) \
    X(wire_original_bytes) X(write)
#define DECLARE(name) static PyObject *name_##name;
NAMES(DECLARE)
static PyObject *perf_counter, *build_metadata;

/* FrameWalker */

typedef struct {
    PyObject_HEAD
    Py_ssize_t left; /* payload bytes of the current frame still to come */
    int close_code;
    char closed;
    unsigned char held; /* bytes of `head`: a header that has begun */
    unsigned char head[LONGEST_HEADER];
} FrameWalker;

/* The size in bytes of the header that has begun, as far as it is known (RFC 6455, 5.2). */
static int header_size(const FrameWalker *walker)
{
    if (walker->held < 2)
        return 2;
    int size = walker->head[1] & 0x7F;
    return 2 + (size == 126 ? 2 : size == 127 ? 8 : 0) + (walker->head[1] & 0x80 ? 4 : 0);
}

static unsigned long long payload_size(const unsigned char *head)
{
    unsigned long long size = head[1] & 0x7F;
    if (size < 126)
        return size;
    int end = size == 126 ? 4 : 10;
    size = 0;
    for (int at = 2; at < end; at++)
        size = size << 8 | head[at];
    return size;
}

/* What a close frame says of whose payload these bytes have come. */
static int close_code(const unsigned char *head, const unsigned char *payload, Py_ssize_t came)
{
    int size = head[1] & 0x7F;
    if (size < 2 || size > LONGEST_CONTROL || came < 2)
        return NO_CODE;
    int code = payload[0] << 8 | payload[1];
    return head[1] & 0x80 ? code ^ (head[2] << 8 | head[3]) : code;
}

static void walk(FrameWalker *walker, const unsigned char *data, Py_ssize_t end)
{
    if (walker->left >= end) {
        walker->left -= end;
        return;
    }
    if (walker->closed)
        return;
    Py_ssize_t at = walker->left;
    walker->left = 0;
    while (at < end) {
        while (walker->held < header_size(walker) && at < end)
            walker->head[walker->held++] = data[at++];
        int whole = walker->held == header_size(walker);
        if (walker->held >= 2 && (walker->head[0] & 0x0F) == CLOSE) {
            walker->closed = 1;
            if (whole)
                walker->close_code = close_code(walker->head, data + at, end - at);
            return;
        }
        if (!whole)
            return;
        unsigned long long size = payload_size(walker->head), most = PY_SSIZE_T_MAX - at;
        at += size < most ? size : most;
        walker->held = 0;
    }
    walker->left = at - end;
}

static PyObject *FrameWalker_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
    FrameWalker *self = (FrameWalker *)type->tp_alloc(type, 0); /* zeroed */
    if (self != NULL)
        self->close_code = NO_CODE;
    return (PyObject *)self;
}

static PyObject *FrameWalker_feed(FrameWalker *self, PyObject *args)
{
    Py_buffer data;
    Py_ssize_t end;
    if (!PyArg_ParseTuple(args, "y*n:feed", &data, &end))
        return NULL;
    int fits = end >= 0 && end <= data.len;
    if (fits)
        walk(self, data.buf, end);
    PyBuffer_Release(&data);
    if (!fits)
        return PyErr_Format(PyExc_ValueError, "end is not within the data: %zd", end);
    Py_RETURN_NONE;
}

static PyObject *FrameWalker_is_between(FrameWalker *self, void *closure)
{
    return PyBool_FromLong(!self->left && !self->held && !self->closed);
}

static PyObject *FrameWalker_closed(FrameWalker *self, void *closure)
{
    return PyBool_FromLong(self->closed);
}

static PyObject *FrameWalker_close_code(FrameWalker *self, void *closure)
{
    if (!self->closed)
        Py_RETURN_NONE;
    return PyLong_FromLong(self->close_code);
}

static PyMethodDef FrameWalker_methods[] = {
    {"feed", (PyCFunction)FrameWalker_feed, METH_VARARGS, NULL},
    {NULL},
};

static PyGetSetDef FrameWalker_getset[] = {
    {"is_between", (getter)FrameWalker_is_between, NULL, NULL, NULL},
    {"closed", (getter)FrameWalker_closed, NULL, NULL, NULL},
    {"close_code", (getter)FrameWalker_close_code, NULL, NULL, NULL},
    {NULL},
};

static PyTypeObject FrameWalker_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "proxy.tunnel.speedups.FrameWalker",
    .tp_basicsize = sizeof(FrameWalker),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_methods = FrameWalker_methods,
    .tp_getset = FrameWalker_getset,
    .tp_new = FrameWalker_new,
};

/* BaseLeg */

typedef struct {
    PyObject_HEAD
    PyObject *peer;
    PyObject *state;
    PyObject *transport;
    PyObject *walker;
    PyObject *repeater; /* of a leg that is filtered; else NULL */
    double sent_at;
    unsigned long long heard;
    long long written;
    int file;
    char waits;
} BaseLeg;

static PyTypeObject BaseLeg_Type;

/* Whether the socket may be written to without the transport; -1 with an exception set. */
static int is_direct(BaseLeg *leg)
{
    if (leg->transport == NULL) {
        PyErr_SetString(PyExc_AttributeError, "transport");
        return -1;
    }
    if (leg->waits) {
        PyObject *size = PyObject_CallMethodNoArgs(leg->transport, name_get_write_buffer_size);
        if (size == NULL)
            return -1;
        int waits = PyObject_IsTrue(size);
        Py_DECREF(size);
        if (waits < 0)
            return -1;
        leg->waits = waits;
    }
    return leg->file >= 0 && !leg->waits;
}

/* `writelines` of two pieces, the second of which may be empty: 0, or -1 with an exception set. */
static int send_pieces(BaseLeg *leg, const struct iovec pieces[2])
{
    Py_ssize_t size = pieces[0].iov_len + pieces[1].iov_len, sent = 0;
    leg->written += size;
    int direct = is_direct(leg);
    if (direct < 0)
        return -1;
    if (direct) {
        /* The interpreter stays locked: the socket never blocks, and a codec's thread that took
           over could keep it for milliseconds. */
        sent = pieces[1].iov_len ? writev(leg->file, pieces, 2)
                                 : write(leg->file, pieces[0].iov_base, size);
        if (sent == size)
            return 0;
        if (sent < 0)
            sent = 0; /* full; or broken, which the transport will find and deal with */
    }
    leg->waits = 1;
    PyObject *rest = PyBytes_FromStringAndSize(NULL, size - sent);
    if (rest == NULL)
        return -1;
    char *to = PyBytes_AS_STRING(rest);
    for (int i = 0; i < 2; i++) {
        Py_ssize_t length = pieces[i].iov_len, skip = sent < length ? sent : length;
        memcpy(to, (char *)pieces[i].iov_base + skip, length - skip);
        to += length - skip;
        sent -= skip;
    }
    PyObject *done = PyObject_CallMethodOneArg(leg->transport, name_write, rest);
    Py_DECREF(rest);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static int send_bytes(BaseLeg *leg, void *data, Py_ssize_t size)
{
    struct iovec pieces[2] = {{data, size}, {"", 0}};
    return send_pieces(leg, pieces);
}

static PyObject *BaseLeg_write(BaseLeg *self, PyObject *data)
{
    Py_buffer bytes;
    if (PyObject_GetBuffer(data, &bytes, PyBUF_SIMPLE) < 0)
        return NULL;
    int failed = send_bytes(self, bytes.buf, bytes.len);
    PyBuffer_Release(&bytes);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *BaseLeg_is_direct(BaseLeg *self, PyObject *none)
{
    int direct = is_direct(self);
    return direct < 0 ? NULL : PyBool_FromLong(direct);
}

static PyObject *BaseLeg_get_buffer(BaseLeg *self, PyObject *sizehint)
{
    if (read_view == NULL)
        return PyErr_Format(PyExc_RuntimeError, "`share` was not called");
    return Py_NewRef(read_view);
}

/* Repeater */

/* What it holds. The first are of its connection, the others of the `Steady` that it goes by. */
enum { FILTER, ENCODER, FLAGS, TALLY, TOTAL, GAPS, SECONDS,
       STEADY, POLICY, OPENINGS, CELL, TRIAL, ALGORITHM, COMPRESS, HELD, OF_STEADY = STEADY };

/* Where attributes of these stand, in the order of `PLACES`. They are looked up once: a look-up for
   each chunk took 6 us of CPU in all. */
#define PLACES(X) \
    X(FILTER, steady) X(FLAGS, current) X(ENCODER, has_time) X(ENCODER, spent) \
    X(TALLY, chunks) X(TALLY, compressed) X(TALLY, original_bytes) X(TALLY, wire_bytes) \
    X(TALLY, algorithm) X(TOTAL, wire_original_bytes) X(TOTAL, wire_bytes) \
    X(GAPS, counts) X(GAPS, sum) X(SECONDS, counts) X(SECONDS, sum)
#define PLACES_OF_STEADY(X) \
    X(STEADY, count) X(STEADY, most) X(CELL, chunks) X(CELL, original_bytes) \
    X(CELL, compressed_bytes) X(CELL, no_gain)
#define PLACE(owner, name) owner##_##name,
enum { PLACES(PLACE) PLACES_OF_STEADY(PLACE) ALL_PLACES };

enum { MOST_ARGS = 8, MARK_SIZE = 5, LONGEST_HEAD = 128 };

typedef struct {
    PyObject_HEAD
    PyObject *held[HELD];
    PyObject **at[ALL_PLACES];
    double unnoticed; /* see `Encoder` */
    double min_gain;
    Py_ssize_t step; /* bytes of each frame; 0: `Steady` is for Python */
    int header_size;
    int prefix_size;
    char judges_loss;               /* each chunk that did not pay is for Python to judge */
    char doubtful;                  /* Python may have seen its trial fail */
    unsigned char header[LONGEST_HEADER];
    unsigned char firsts[256 / 8];  /* a bit for each byte: a chunk that begins with it is no other */
    char prefix[LONGEST_HEAD];      /* of the pair's head, up to the compressed size */
} Repeater;

static PyTypeObject Repeater_Type;

/* Upper bounds of `Histogram`, in seconds; of `share`. */
static double bounds[32];
static Py_ssize_t bound_count;

static double as_double(PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL)
        return -1.0;
    double found = PyFloat_AsDouble(value);
    Py_DECREF(value);
    return found;
}

static Py_ssize_t as_size(PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL)
        return -1;
    Py_ssize_t found = PyLong_AsSsize_t(value);
    Py_DECREF(value);
    return found;
}

/* Whether object.name is true; -1 with an exception set. */
static int as_truth(PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL)
        return -1;
    int found = PyObject_IsTrue(value);
    Py_DECREF(value);
    return found;
}

/* Where an attribute stands in an object whose class has `__slots__`. NULL with an exception set. */
static PyObject **place_of(PyObject *object, PyObject *name)
{
    PyObject *found = PyObject_GetAttr((PyObject *)Py_TYPE(object), name);
    if (found == NULL)
        return NULL;
    PyObject **place = NULL;
    if (Py_IS_TYPE(found, &PyMemberDescr_Type) &&
        ((PyMemberDescrObject *)found)->d_member->type == T_OBJECT_EX)
        place = (PyObject **)((char *)object + ((PyMemberDescrObject *)found)->d_member->offset);
    else
        PyErr_Format(PyExc_TypeError, "%R of %R is in no slot", name, object);
    Py_DECREF(found);
    return place;
}

/* Put something else in its place, which may be nothing: -1, with an exception set. */
static int put(PyObject **place, PyObject *value)
{
    if (value == NULL)
        return -1;
    Py_XSETREF(*place, value);
    return 0;
}

static int add_float(PyObject **place, double by)
{
    double before = *place == NULL ? 0.0 : PyFloat_AsDouble(*place);
    if (before == -1.0 && PyErr_Occurred())
        return -1;
    return put(place, PyFloat_FromDouble(before + by));
}

static int add(PyObject **place, Py_ssize_t by)
{
    Py_ssize_t before = *place == NULL ? 0 : PyLong_AsSsize_t(*place);
    if (before == -1 && PyErr_Occurred())
        return -1;
    return put(place, PyLong_FromSsize_t(before + by));
}

/* `Histogram.add`, of one, and the like. */
static int add_seconds(PyObject **counts, PyObject **sum, double seconds)
{
    Py_ssize_t number = 0;
    while (number < bound_count && bounds[number] < seconds)
        number++;
    if (!PyList_CheckExact(*counts) || number >= PyList_GET_SIZE(*counts)) {
        PyErr_SetString(PyExc_TypeError, "a histogram has other bounds");
        return -1;
    }
    if (add(&((PyListObject *)*counts)->ob_item[number], 1) < 0)
        return -1;
    return add_float(sum, seconds);
}

/* `time.perf_counter` */
static int now_seconds(double *now)
{
#ifdef __linux__ /* which asks this clock, and makes an object of what it says */
    struct timespec time;
    if (clock_gettime(CLOCK_MONOTONIC, &time) == 0) {
        *now = (double)time.tv_sec + time.tv_nsec * 1e-9;
        return 0;
    }
#endif
    PyObject *value = PyObject_CallNoArgs(perf_counter);
    if (value == NULL)
        return -1;
    *now = PyFloat_AsDouble(value);
    Py_DECREF(value);
    return 0;
}

/* Hold object.name: 0, or -1 with an exception set. */
static int hold(Repeater *self, int place, PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL)
        return -1;
    Py_XSETREF(self->held[place], value);
    return 0;
}

/* The head of a pair up to the compressed size, of what Python writes. */
static int take_prefix(Repeater *self, Py_ssize_t size)
{
    PyObject *text = PyObject_CallFunction(build_metadata, "Oni", self->held[ALGORITHM], size, 0);
    char *bytes;
    Py_ssize_t length;
    if (text == NULL || PyBytes_AsStringAndSize(text, &bytes, &length) < 0) {
        Py_XDECREF(text);
        return -1;
    }
    self->prefix_size = 2 + (int)length - 2; /* a frame's header in front, "0}" less behind */
    int fits = length >= 2 && length + 20 <= LONGEST_CONTROL;
    if (fits)
        memcpy(self->prefix + 2, bytes, length - 2);
    Py_DECREF(text);
    self->prefix[0] = (char)TEXT;
    return fits;
}

/* Go by another `Steady`; `step` stays 0 where Python is to go by it. 0, or -1 with an exception. */
static int take_steady(Repeater *self, PyObject *steady)
{
    self->step = 0;
    for (int i = OF_STEADY; i < HELD; i++)
        Py_CLEAR(self->held[i]);
    self->held[STEADY] = Py_NewRef(steady);
    if (hold(self, POLICY, steady, name_policy) < 0 ||
        hold(self, OPENINGS, steady, name_openings) < 0 ||
        hold(self, CELL, steady, name_cell) < 0 || hold(self, TRIAL, steady, name_trial) < 0)
        return -1;
#define FIND(owner, name) \
    if ((self->at[owner##_##name] = place_of(self->held[owner], name_##name)) == NULL) \
        return -1;
    PLACES_OF_STEADY(FIND)
    PyObject *policy = self->held[POLICY], *trial = self->held[TRIAL];
    PyObject *header = NULL, *firsts = NULL, *codec = NULL, *chunk = NULL;
    PyObject *layout = NULL, *level = NULL;
    int shadow = as_truth(policy, name_shadow), failed = -1;
    Py_ssize_t step = as_size(steady, name_step);
    self->min_gain = as_double(policy, name_min_gain);
    if (PyErr_Occurred() ||
        (header = PyObject_GetAttr(steady, name_header)) == NULL ||
        (firsts = PyObject_GetAttr(self->held[OPENINGS], name_firsts)) == NULL ||
        (codec = PyObject_GetAttr(trial, name_codec)) == NULL ||
        (chunk = PyObject_GetAttr(steady, name_chunk)) == NULL ||
        (layout = PyObject_GetAttr(chunk, name_layout)) == NULL ||
        (level = PyObject_GetAttr(policy, name_level)) == NULL ||
        hold(self, ALGORITHM, trial, name_name) < 0)
        goto end;
    PyObject *plain = PyObject_CallMethodObjArgs(codec, name_plain, layout, level, NULL);
    if (plain == NULL)
        goto end;
    self->held[COMPRESS] = plain;
    if (!PyBytes_Check(header) || PyBytes_GET_SIZE(header) > LONGEST_HEADER ||
        !PyBytes_Check(firsts) || (plain != Py_None && !PyTuple_Check(plain))) {
        PyErr_Format(PyExc_TypeError, "not to be gone by: %R", steady);
        goto end;
    }
    self->judges_loss = layout == Py_None;
    self->doubtful = 1;
    self->header_size = (int)PyBytes_GET_SIZE(header);
    memcpy(self->header, PyBytes_AS_STRING(header), self->header_size);
    memset(self->firsts, 0, sizeof self->firsts);
    for (Py_ssize_t i = 0; i < PyBytes_GET_SIZE(firsts); i++) {
        unsigned char first = PyBytes_AS_STRING(firsts)[i];
        self->firsts[first / 8] |= 1 << first % 8;
    }
    int fits = take_prefix(self, step - self->header_size);
    if (fits < 0)
        goto end;
    if (fits && plain != Py_None && !shadow)
        self->step = step;
    failed = 0;
end:
    Py_XDECREF(header);
    Py_XDECREF(firsts);
    Py_XDECREF(codec);
    Py_XDECREF(chunk);
    Py_XDECREF(layout);
    Py_XDECREF(level);
    return failed;
}

/* Whether what was read is a message that its `Steady` is about; -1 with an exception set. */
static int fits(Repeater *self, const unsigned char *data, Py_ssize_t size)
{
    PyObject *steady = *self->at[FILTER_steady];
    if (steady == NULL || steady == Py_None)
        return 0;
    if (steady != self->held[STEADY]) {
        Py_ssize_t step = as_size(steady, name_step);
        if (step != size) /* in bulk none does, and there is one for each read */
            return step < 0 ? -1 : 0;
        if (take_steady(self, steady) < 0)
            return -1;
    }
    if (self->step != size || memcmp(data, self->header, self->header_size))
        return 0;
    if (*self->at[FLAGS_current] != self->held[POLICY])
        return 0;
    Py_ssize_t count = PyLong_AsSsize_t(*self->at[STEADY_count]);
    Py_ssize_t most = PyLong_AsSsize_t(*self->at[STEADY_most]);
    if (PyErr_Occurred())
        return -1;
    if (count + 1 >= most)
        return 0; /* Python ends it */
    const unsigned char *payload = data + self->header_size;
    if (self->firsts[*payload / 8] & 1 << *payload % 8)
        return 1;
    Py_ssize_t left = size - self->header_size;
    PyObject *mark = PyBytes_FromStringAndSize((char *)payload, left < MARK_SIZE ? left : MARK_SIZE);
    if (mark == NULL)
        return -1;
    PyObject *fit = PyObject_CallMethodOneArg(self->held[OPENINGS], name_fit, mark);
    Py_DECREF(mark);
    int found = fit == NULL ? -1 : PyObject_IsTrue(fit);
    Py_XDECREF(fit);
    return found;
}

/* The chunk, encoded: bytes. NULL without an exception where that failed: Python will meet it. */
static PyObject *encode(Repeater *self, unsigned char *data, Py_ssize_t size)
{
    PyObject *plain = self->held[COMPRESS];
    Py_ssize_t count = PyTuple_GET_SIZE(plain);
    if (count < 1 || count > MOST_ARGS)
        return NULL;
    PyObject *args[MOST_ARGS];
    PyObject *chunk = PyBytes_FromStringAndSize((char *)data, size);
    if (chunk == NULL) {
        PyErr_Clear();
        return NULL;
    }
    args[0] = chunk;
    for (Py_ssize_t i = 1; i < count; i++)
        args[i] = PyTuple_GET_ITEM(plain, i);
    PyObject *encoded = PyObject_Vectorcall(PyTuple_GET_ITEM(plain, 0), args, count, NULL);
    Py_DECREF(chunk);
    if (encoded == NULL)
        PyErr_Clear();
    else if (!PyBytes_CheckExact(encoded))
        Py_CLEAR(encoded);
    return encoded;
}

/* Completes the head of a pair in `head`, of `build_pair_head`. Returns its bytes. */
static int write_head(const Repeater *self, char *head, Py_ssize_t encoded)
{
    char digits[20], *at = head + self->prefix_size;
    int count = 0;
    memcpy(head, self->prefix, self->prefix_size);
    for (Py_ssize_t rest = encoded; rest || !count; rest /= 10)
        digits[count++] = '0' + rest % 10;
    while (count)
        *at++ = digits[--count];
    *at++ = '}';
    head[1] = (char)(at - head - 2);
    *at++ = (char)BINARY;
    if (encoded < 126) {
        *at++ = (char)encoded;
    } else if (encoded < 65536) {
        *at++ = 126;
        *at++ = (char)(encoded >> 8);
        *at++ = (char)encoded;
    } else {
        *at++ = 127;
        for (int shift = 56; shift >= 0; shift -= 8)
            *at++ = (char)((unsigned long long)encoded >> shift);
    }
    return (int)(at - head);
}

/* `Trial.gained`, where something had failed. */
static int end_doubt(Repeater *self)
{
    PyObject *done = PyObject_CallMethodNoArgs(self->held[TRIAL], name_gained);
    if (done == NULL)
        return -1;
    Py_DECREF(done);
    self->doubtful = 0;
    return 0;
}

/* What `Lossless.repeat` counts of a chunk that was sent, `wire` bytes instead of `step`. */
static int count_chunk(Repeater *self, Py_ssize_t wire, Py_ssize_t encoded)
{
    PyObject ***at = self->at;
    if (add(at[STEADY_count], 1) < 0 || add(at[TALLY_chunks], 1) < 0 ||
        add(at[TALLY_original_bytes], self->step) < 0 || add(at[TALLY_wire_bytes], wire) < 0 ||
        add(at[TOTAL_wire_original_bytes], self->step) < 0 || add(at[TOTAL_wire_bytes], wire) < 0)
        return -1;
    if (encoded < 0)
        return add(at[CELL_no_gain], 1);
    if (add(at[TALLY_compressed], 1) < 0 ||
        put(at[TALLY_algorithm], Py_NewRef(self->held[ALGORITHM])) < 0 ||
        add(at[CELL_chunks], 1) < 0 ||
        add(at[CELL_original_bytes], self->step - self->header_size) < 0 ||
        add(at[CELL_compressed_bytes], encoded) < 0)
        return -1;
    return 0;
}

/* `Encoder.spend`: what has no consequence yet is counted here. */
static int spend(Repeater *self, double seconds)
{
    PyObject **spent = self->at[ENCODER_spent];
    double before = PyFloat_AsDouble(*spent);
    if (before == -1.0 && PyErr_Occurred())
        return -1;
    if (before + seconds < self->unnoticed)
        return add_float(spent, seconds) < 0
                   ? -1
                   : add_seconds(self->at[SECONDS_counts], self->at[SECONDS_sum], seconds);
    PyObject *took = PyFloat_FromDouble(seconds), *one = PyLong_FromLong(1);
    PyObject *done = took == NULL || one == NULL
                         ? NULL
                         : PyObject_CallMethodObjArgs(self->held[ENCODER], name_spend, took, one, NULL);
    Py_XDECREF(took);
    Py_XDECREF(one);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* `AudioFilter.missed` */
static int miss(Repeater *self, Py_ssize_t encoded)
{
    PyObject *size = PyLong_FromSsize_t(encoded);
    PyObject *done = size == NULL ? NULL
                                  : PyObject_CallMethodOneArg(self->held[FILTER], name_missed, size);
    Py_XDECREF(size);
    Py_XDECREF(done);
    self->doubtful = 1;
    return done == NULL ? -1 : 0;
}

/* `FilteredLeg.filter` of what fits: 1; 0 where that is for Python; -1 with an exception set.

   A fault that nobody foresaw is told of, and costs no lesson: Python deals with the message, or it
   has been sent. */
static int repeat(Repeater *self, BaseLeg *leg, BaseLeg *peer, unsigned char *data, Py_ssize_t size)
{
    double start, end;
    if (self->held[ENCODER] == NULL) /* collected */
        return 0;
    int found = *self->at[ENCODER_has_time] == Py_True ? fits(self, data, size) : 0;
    if (found < 0 || (found && now_seconds(&start) < 0)) {
        PyErr_WriteUnraisable((PyObject *)leg);
        return 0;
    }
    if (!found)
        return 0;
    PyObject *encoded = encode(self, data + self->header_size, size - self->header_size);
    Py_ssize_t length = encoded == NULL ? 0 : PyBytes_GET_SIZE(encoded);
    char head[LONGEST_HEAD + 40];
    int head_size = write_head(self, head, length);
    Py_ssize_t wire = head_size + length;
    int pays = wire < size && size - wire >= self->min_gain * size; /* as in chooser.py */
    /* Of raw samples, one that gained a little too little says nothing: `Lossless._missed`. */
    int judged = !pays && (self->judges_loss || length > 0.99 * (size - self->header_size));
    if (encoded == NULL) {
        self->doubtful = 1;
        return 0;
    }
    struct iovec pieces[2] = {{head, head_size}, {PyBytes_AS_STRING(encoded), length}};
    if (now_seconds(&end) < 0) {
        PyErr_WriteUnraisable((PyObject *)leg);
        end = start;
    }
    /* Each of these on its own: who follows the audio is to know of each message. */
    if (count_chunk(self, pays ? wire : size, pays ? length : -1) < 0)
        PyErr_WriteUnraisable((PyObject *)leg);
    if (spend(self, end - start) < 0)
        PyErr_WriteUnraisable((PyObject *)leg);
    if ((judged && miss(self, length) < 0) || (pays && self->doubtful && end_doubt(self) < 0))
        PyErr_WriteUnraisable((PyObject *)leg);
    int failed = pays ? send_pieces(peer, pieces) : send_bytes(peer, data, size);
    Py_DECREF(encoded);
    if (failed)
        return -1;
    if (add_seconds(self->at[GAPS_counts], self->at[GAPS_sum], start - leg->sent_at) < 0)
        PyErr_WriteUnraisable((PyObject *)leg);
    leg->sent_at = start;
    return 1;
}

static int take_connection(Repeater *self)
{
    if (hold(self, FLAGS, self->held[FILTER], name_flags) < 0 ||
        hold(self, TALLY, self->held[FILTER], name_tally) < 0 ||
        hold(self, TOTAL, self->held[TALLY], name_total) < 0 ||
        hold(self, GAPS, self->held[TOTAL], name_gap_seconds) < 0 ||
        hold(self, SECONDS, self->held[TOTAL], name_encode_seconds) < 0)
        return -1;
    PLACES(FIND)
    self->unnoticed = as_double(self->held[ENCODER], name_unnoticed);
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *Repeater_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
    PyObject *filter, *encoder;
    if (!PyArg_ParseTuple(args, "OO:Repeater", &filter, &encoder))
        return NULL;
    Repeater *self = (Repeater *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->held[FILTER] = Py_NewRef(filter);
    self->held[ENCODER] = Py_NewRef(encoder);
    if (take_connection(self) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int Repeater_traverse(Repeater *self, visitproc visit, void *arg)
{
    for (int i = 0; i < HELD; i++)
        Py_VISIT(self->held[i]);
    return 0;
}

static int Repeater_clear(Repeater *self)
{
    for (int i = 0; i < HELD; i++)
        Py_CLEAR(self->held[i]);
    return 0;
}

static void Repeater_dealloc(Repeater *self)
{
    PyObject_GC_UnTrack(self);
    Repeater_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyTypeObject Repeater_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "proxy.tunnel.speedups.Repeater",
    .tp_basicsize = sizeof(Repeater),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_traverse = (traverseproc)Repeater_traverse,
    .tp_clear = (inquiry)Repeater_clear,
    .tp_dealloc = (destructor)Repeater_dealloc,
    .tp_new = Repeater_new,
};

/* BaseLeg, as its transport calls it */

static PyObject *BaseLeg_buffer_updated(BaseLeg *self, PyObject *nbytes)
{
    Py_ssize_t size = PyLong_AsSsize_t(nbytes);
    if (size == -1 && PyErr_Occurred())
        return NULL;
    if (size < 0 || size > read_buffer.len)
        return PyErr_Format(PyExc_ValueError, "more bytes than were asked for: %zd", size);
    if (self->peer == NULL || !PyObject_TypeCheck(self->peer, &BaseLeg_Type))
        return PyErr_Format(PyExc_TypeError, "its peer is no leg");
    self->heard = ++clock_now;
    BaseLeg *peer = (BaseLeg *)Py_NewRef(self->peer); /* the transport's code may let go of it */
    int done = 0;
    if (self->repeater != NULL) {
        if (!Py_IS_TYPE(self->repeater, &Repeater_Type))
            done = (PyErr_Format(PyExc_TypeError, "not a Repeater: %R", self->repeater), -1);
        else if (peer->state == open_state) {
            Repeater *repeater = (Repeater *)Py_NewRef(self->repeater);
            done = repeat(repeater, self, peer, read_buffer.buf, size);
            Py_DECREF(repeater);
        }
    } else if (self->walker != NULL && self->walker != Py_None) {
        if (!Py_IS_TYPE(self->walker, &FrameWalker_Type)) {
            done = (PyErr_Format(PyExc_TypeError, "not a FrameWalker: %R", self->walker), -1);
        } else {
            walk((FrameWalker *)self->walker, read_buffer.buf, size);
            done = peer->state != open_state ? 1 : send_bytes(peer, read_buffer.buf, size) < 0 ? -1 : 1;
        }
    }
    Py_DECREF(peer);
    if (done < 0)
        return NULL;
    if (!done)
        return PyObject_CallMethodOneArg((PyObject *)self, name_filter, nbytes);
    Py_RETURN_NONE;
}

static PyObject *BaseLeg_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
    BaseLeg *self = (BaseLeg *)type->tp_alloc(type, 0); /* zeroed */
    if (self != NULL) {
        self->file = -1;
        self->waits = 1;
    }
    return (PyObject *)self;
}

static int BaseLeg_traverse(BaseLeg *self, visitproc visit, void *arg)
{
    Py_VISIT(self->peer);
    Py_VISIT(self->state);
    Py_VISIT(self->transport);
    Py_VISIT(self->walker);
    Py_VISIT(self->repeater);
    return 0;
}

static int BaseLeg_clear(BaseLeg *self)
{
    Py_CLEAR(self->peer);
    Py_CLEAR(self->state);
    Py_CLEAR(self->transport);
    Py_CLEAR(self->walker);
    Py_CLEAR(self->repeater);
    return 0;
}

static void BaseLeg_dealloc(BaseLeg *self)
{
    PyObject_GC_UnTrack(self);
    BaseLeg_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef BaseLeg_methods[] = {
    {"get_buffer", (PyCFunction)BaseLeg_get_buffer, METH_O, NULL},
    {"buffer_updated", (PyCFunction)BaseLeg_buffer_updated, METH_O, NULL},
    {"write", (PyCFunction)BaseLeg_write, METH_O, NULL},
    {"is_direct", (PyCFunction)BaseLeg_is_direct, METH_NOARGS, NULL},
    {NULL},
};

static PyMemberDef BaseLeg_members[] = {
    {"peer", T_OBJECT_EX, offsetof(BaseLeg, peer), 0, NULL},
    {"state", T_OBJECT_EX, offsetof(BaseLeg, state), 0, NULL},
    {"transport", T_OBJECT_EX, offsetof(BaseLeg, transport), 0, NULL},
    {"walker", T_OBJECT_EX, offsetof(BaseLeg, walker), 0, NULL},
    {"repeater", T_OBJECT_EX, offsetof(BaseLeg, repeater), 0, NULL},
    {"sent_at", T_DOUBLE, offsetof(BaseLeg, sent_at), 0, NULL},
    {"heard", T_ULONGLONG, offsetof(BaseLeg, heard), 0, NULL},
    {"written", T_LONGLONG, offsetof(BaseLeg, written), 0, NULL},
    {"file", T_INT, offsetof(BaseLeg, file), 0, NULL},
    {"waits", T_BOOL, offsetof(BaseLeg, waits), 0, NULL},
    {NULL},
};

static PyTypeObject BaseLeg_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "proxy.tunnel.speedups.BaseLeg",
    .tp_basicsize = sizeof(BaseLeg),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_traverse = (traverseproc)BaseLeg_traverse,
    .tp_clear = (inquiry)BaseLeg_clear,
    .tp_dealloc = (destructor)BaseLeg_dealloc,
    .tp_methods = BaseLeg_methods,
    .tp_members = BaseLeg_members,
    .tp_new = BaseLeg_new,
};

/* The module */

static PyObject *speedups_now(PyObject *module, PyObject *none)
{
    return PyLong_FromUnsignedLongLong(++clock_now);
}

static PyObject *speedups_share(PyObject *module, PyObject *args)
{
    PyObject *view, *state, *seconds, *build;
    if (!PyArg_ParseTuple(args, "OOO!O:share", &view, &state, &PyTuple_Type, &seconds, &build))
        return NULL;
    Py_buffer buffer;
    if (PyObject_GetBuffer(view, &buffer, PyBUF_WRITABLE) < 0)
        return NULL;
    if (read_view != NULL)
        PyBuffer_Release(&read_buffer);
    read_buffer = buffer;
    Py_XSETREF(read_view, Py_NewRef(view));
    Py_XSETREF(open_state, Py_NewRef(state));
    Py_XSETREF(build_metadata, Py_NewRef(build));
    Py_ssize_t count = PyTuple_GET_SIZE(seconds);
    if (count > (Py_ssize_t)(sizeof bounds / sizeof *bounds))
        return PyErr_Format(PyExc_ValueError, "too many bounds: %zd", count);
    for (Py_ssize_t i = 0; i < count; i++)
        bounds[i] = PyFloat_AsDouble(PyTuple_GET_ITEM(seconds, i));
    bound_count = count;
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef speedups_methods[] = {
    {"now", speedups_now, METH_NOARGS, NULL},
    {"share", speedups_share, METH_VARARGS, NULL},
    {NULL},
};

static struct PyModuleDef speedups_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "proxy.tunnel.speedups",
    .m_size = -1,
    .m_methods = speedups_methods,
};

PyMODINIT_FUNC PyInit_speedups(void)
{
#define INTERN(name) \
    if ((name_##name = PyUnicode_InternFromString(#name)) == NULL) \
        return NULL;
    NAMES(INTERN)
    PyObject *time = PyImport_ImportModule("time");
    perf_counter = time == NULL ? NULL : PyObject_GetAttrString(time, "perf_counter");
    Py_XDECREF(time);
    if (perf_counter == NULL)
        return NULL;
    PyObject *module = PyModule_Create(&speedups_module);
    if (module == NULL)
        return NULL;
    if (PyModule_AddType(module, &FrameWalker_Type) < 0 ||
        PyModule_AddType(module, &BaseLeg_Type) < 0 ||
        PyModule_AddType(module, &Repeater_Type) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
