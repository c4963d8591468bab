/* The hot path of a tunnel in C: `PythonBaseLeg` of base_leg.py and `FrameWalker` of
   websocket/walker.py, which say what they do and are used where this was not built.

   At the pace of speech, where each chunk finds the caches cold, this makes a chunk that passes
   cost what it costs nginx; in Python it is half as much again (tests/bench). */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <string.h>
#include <unistd.h>

enum { CLOSE = 0x8, NO_CODE = 1005, LONGEST_HEADER = 14, LONGEST_CONTROL = 125 };

/* Of `share`: where every leg reads to, and the state of a leg that may be written to. */
static PyObject *read_view;
static Py_buffer read_buffer;
static PyObject *open_state;

static unsigned long long clock_now; /* of `now` */

static PyObject *name_get_write_buffer_size, *name_write;

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

/* `write` of some bytes: 0, or -1 with an exception set. */
static int send_bytes(BaseLeg *leg, const char *data, Py_ssize_t size)
{
    leg->written += size;
    int direct = is_direct(leg);
    if (direct < 0)
        return -1;
    /* The interpreter stays locked: the socket never blocks, and a codec's thread that took over
       could keep it for milliseconds. */
    Py_ssize_t sent = direct ? write(leg->file, data, size) : 0;
    if (sent == size && direct)
        return 0;
    if (sent < 0)
        sent = 0; /* full; or broken, which the transport will find and deal with */
    leg->waits = 1;
    PyObject *rest = PyBytes_FromStringAndSize(data + sent, size - sent);
    if (rest == NULL)
        return -1;
    PyObject *done = PyObject_CallMethodOneArg(leg->transport, name_write, rest);
    Py_DECREF(rest);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
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
    return Py_NewRef(read_view);
}

static PyObject *BaseLeg_buffer_updated(BaseLeg *self, PyObject *nbytes)
{
    Py_ssize_t size = PyLong_AsSsize_t(nbytes);
    if (size == -1 && PyErr_Occurred())
        return NULL;
    if (size < 0 || size > read_buffer.len)
        return PyErr_Format(PyExc_ValueError, "more bytes than were asked for: %zd", size);
    if (self->walker != NULL && self->walker != Py_None) {
        if (!Py_IS_TYPE(self->walker, &FrameWalker_Type))
            return PyErr_Format(PyExc_TypeError, "not a FrameWalker: %R", self->walker);
        walk((FrameWalker *)self->walker, read_buffer.buf, size);
    }
    self->heard = ++clock_now;
    if (self->peer == NULL || !PyObject_TypeCheck(self->peer, &BaseLeg_Type))
        return PyErr_Format(PyExc_TypeError, "its peer is no leg");
    BaseLeg *peer = (BaseLeg *)Py_NewRef(self->peer); /* the transport's code may let go of it */
    int failed = peer->state == open_state && send_bytes(peer, read_buffer.buf, size) < 0;
    Py_DECREF(peer);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static int BaseLeg_traverse(BaseLeg *self, visitproc visit, void *arg)
{
    Py_VISIT(self->peer);
    Py_VISIT(self->state);
    Py_VISIT(self->transport);
    Py_VISIT(self->walker);
    return 0;
}

static int BaseLeg_clear(BaseLeg *self)
{
    Py_CLEAR(self->peer);
    Py_CLEAR(self->state);
    Py_CLEAR(self->transport);
    Py_CLEAR(self->walker);
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
    .tp_new = PyType_GenericNew,
};

/* The module */

static PyObject *speedups_now(PyObject *module, PyObject *none)
{
    return PyLong_FromUnsignedLongLong(++clock_now);
}

static PyObject *speedups_share(PyObject *module, PyObject *args)
{
    PyObject *view, *state;
    if (!PyArg_ParseTuple(args, "OO:share", &view, &state))
        return NULL;
    Py_buffer buffer;
    if (PyObject_GetBuffer(view, &buffer, PyBUF_WRITABLE) < 0)
        return NULL;
    if (read_view != NULL)
        PyBuffer_Release(&read_buffer);
    read_buffer = buffer;
    Py_XSETREF(read_view, Py_NewRef(view));
    Py_XSETREF(open_state, Py_NewRef(state));
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
    name_get_write_buffer_size = PyUnicode_InternFromString("get_write_buffer_size");
    name_write = PyUnicode_InternFromString("write");
    if (name_get_write_buffer_size == NULL || name_write == NULL)
        return NULL;
    PyObject *module = PyModule_Create(&speedups_module);
    if (module == NULL)
        return NULL;
    if (PyModule_AddType(module, &FrameWalker_Type) < 0 ||
        PyModule_AddType(module, &BaseLeg_Type) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
