#include "wire.h"

PyTypeObject *class_in, *class_out, *class_ret, *class_inout, *class_fd;
Py_ssize_t field_at;
PyObject *name_ok, *name_on_error, *name_undo, *name_stop, *name_continue, *name_fd_handle,
    *name_ends_handle;

int patience_set_us(struct patience *p, PyObject *value) {
    unsigned long us = value ? PyLong_AsUnsignedLong(value) : 0;
    if (us == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    if (us > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "spin_us: out of range");
        return -1;
    }
    patience_set(p, (uint32_t)us);
    return 0;
}

int reply_head(struct rs_reader *r, uint32_t *fields, uint64_t *type, uint64_t *id) {
    struct rs_value v;
    if (rs_next(r, &v) || v.kind != RS_ARRAY || v.len < 2)
        return 0;
    *fields = v.len;
    if (rs_next(r, &v) || v.kind != RS_UINT)
        return 0;
    *type = v.number;
    if (rs_next(r, &v) || v.kind != RS_UINT)
        return 0;
    *id = v.number;
    return 1;
}

/* ---- calls ---- */

static int add_out(struct outs *outs, uint64_t size, int exact) {
    outs->size[outs->count] = (uint32_t)size;
    outs->exact[outs->count++] = exact;
    return 1;
}

/* 1; 0 if it cannot be done here, with no exception. */
int put_number(uint8_t **p, const uint8_t *end, PyObject *value) {
    int overflow;
    if (end - *p < 9)
        return 0;
    long long n = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow > 0) {
        unsigned long long u = PyLong_AsUnsignedLongLong(value);
        if (u == (unsigned long long)-1 && PyErr_Occurred()) {
            PyErr_Clear();
            return 0;
        }
        *p = rs_put_be(*p, RS_TAG_UINT64, u, 8);
        return 1;
    }
    if (overflow || (n == -1 && PyErr_Occurred())) {
        PyErr_Clear();
        return 0;
    }
    *p = n >= 0 ? rs_put_uint(*p, (uint64_t)n) : rs_put_be(*p, RS_TAG_INT64, (uint64_t)n, 8);
    return 1;
}

int put_bytes(uint8_t **p, const uint8_t *end, PyObject *bytes, uint8_t type, uint32_t *len) {
    if (PyBytes_GET_SIZE(bytes) > (Py_ssize_t)UINT32_MAX || PyBytes_GET_SIZE(bytes) + 6 > end - *p)
        return 0;
    *len = (uint32_t)PyBytes_GET_SIZE(bytes);
    *p = rs_put_be(*p, 0xc9, *len, 4);
    *(*p)++ = type;
    memcpy(*p, PyBytes_AS_STRING(bytes), *len);
    *p += *len;
    return 1;
}

static int put_data(uint8_t **p, const uint8_t *end, PyObject *value, uint8_t type, uint32_t *len) {
    PyObject *data = record_field(value);
    return data && PyBytes_CheckExact(data) && put_bytes(p, end, data, type, len);
}

static int put_size(uint8_t **p, const uint8_t *end, PyObject *value, uint8_t type, uint32_t *len) {
    PyObject *size = record_field(value);
    int done = 0;
    if (size && PyLong_Check(size) && end - *p >= 6) {
        long long n = PyLong_AsLongLong(size);
        if (n >= 0 && n <= UINT32_MAX) {
            *p = rs_put_be(*p, 0xd6, (uint64_t)type << 32 | (uint64_t)n, 5);
            *len = (uint32_t)n;
            done = 1;
        }
    }
    PyErr_Clear();
    return done;
}

int put_argument(uint8_t **p, const uint8_t *end, PyObject *value, struct outs *outs) {
    PyTypeObject *type = Py_TYPE(value);
    uint32_t len;
    if (PyLong_Check(value))
        return put_number(p, end, value);
    if (type == class_in)
        return put_data(p, end, value, RS_ARG_IN, &len);
    if (type == class_inout)
        return put_data(p, end, value, RS_ARG_INOUT, &len) && add_out(outs, len, 1);
    if (type == class_out)
        return put_size(p, end, value, RS_ARG_OUT, &len) && add_out(outs, len, 1);
    if (type == class_ret)
        return put_size(p, end, value, RS_ARG_RET, &len) && add_out(outs, len, 0);
    if (!type->tp_as_number || !type->tp_as_number->nb_int || PyFloat_Check(value))
        return 0;
    PyObject *number = PyNumber_Long(value);
    if (!number) {
        PyErr_Clear();
        return 0;
    }
    int done = put_number(p, end, number);
    Py_DECREF(number);
    return done;
}

uint32_t encode_call(uint8_t *buffer, uint32_t room, uint64_t id, uint32_t frame_limit,
                     PyObject *const *args, Py_ssize_t n, struct outs *outs) {
    uint8_t *p = buffer + RS_SIZE_HEADER, *end = buffer + room;
    while (n > 1 && PyLong_CheckExact(args[n - 1]) && PyLong_AsLong(args[n - 1]) == 0)
        n--; /* what is not there is zero */
    PyErr_Clear();
    if (n < 1 || n > 1 + MOST_ARGS || !PyLong_Check(args[0]))
        return 0;
    long long nr = PyLong_AsLongLong(args[0]);
    if (nr < 0 || nr > INT32_MAX) {
        PyErr_Clear();
        return 0;
    }
    *p++ = RS_FIXARRAY | 6;
    *p++ = RS_MSG_CALL;
    p = rs_put_be(p, RS_TAG_UINT64, id, 8);
    *p++ = 0; /* descriptors */
    *p++ = 0; /* flags */
    p = rs_put_uint(p, (uint64_t)nr);
    *p++ = (uint8_t)(RS_FIXARRAY | (n - 1));
    for (Py_ssize_t i = 1; i < n; i++)
        if (!put_argument(&p, end, args[i], outs))
            return 0;
    uint64_t reserve = RS_SIZE_REPLY_BASE;
    for (uint32_t i = 0; i < outs->count; i++)
        reserve += RS_SIZE_REPLY_OUT + outs->size[i];
    uint32_t len = (uint32_t)(p - buffer) - RS_SIZE_HEADER;
    /* What the limits do not admit is for others to refuse. */
    if (reserve > frame_limit || len > frame_limit)
        return 0;
    rs_put_be(buffer, RS_TAG_UINT32, len, 4);
    return RS_SIZE_HEADER + len;
}

/* ---- replies ---- */

PyObject *decode_result(const uint8_t *body, uint32_t len, uint64_t id, const struct outs *outs) {
    struct rs_reader r = {body, body + len};
    struct rs_value v;
    uint64_t type, its_id;
    uint32_t fields;
    if (!reply_head(&r, &fields, &type, &its_id) || fields != 5 || type != RS_MSG_RESULT ||
        its_id != id)
        return NULL;
    if (rs_next(&r, &v) || v.kind != RS_UINT || v.number != 0) /* descriptors */
        return NULL;
    if (rs_next(&r, &v) || (v.kind != RS_UINT && v.kind != RS_NINT))
        return NULL;
    if (v.kind == RS_UINT && v.number > INT64_MAX)
        return NULL;
    int64_t result = (int64_t)v.number;
    if (rs_next(&r, &v) || v.kind != RS_ARRAY || v.len != outs->count)
        return NULL;
    PyObject *tuple = outs->count ? PyTuple_New(outs->count) : NULL;
    for (uint32_t i = 0; tuple && i < outs->count; i++) {
        uint64_t most = outs->size[i];
        uint64_t due = outs->exact[i] ? most : result < 0 ? 0 : (uint64_t)result < most ? (uint64_t)result : most;
        PyObject *out = NULL;
        if (!rs_next(&r, &v) && v.kind == RS_BIN && v.len == due)
            out = PyBytes_FromStringAndSize((const char *)v.data, v.len);
        if (!out) {
            Py_DECREF(tuple);
            return NULL;
        }
        PyTuple_SET_ITEM(tuple, i, out);
    }
    if (r.p != r.end || (outs->count && !tuple)) {
        Py_XDECREF(tuple);
        return NULL;
    }
    if (!outs->count)
        return PyLong_FromLongLong(result);
    PyObject *value = PyLong_FromLongLong(result);
    PyObject *both = value ? PyTuple_Pack(2, value, tuple) : NULL;
    Py_XDECREF(value);
    Py_DECREF(tuple);
    return both;
}
