/* The inner loops over blocks of a window: products of steps, squared norms, weighted sums. `__init__.py` says what each one is for.

   Sums are the same to the bit on every processor: LANES of them run beside each other over the columns of a tile and are added as
   a tree, tiles are added one after the other in groups of GROUP columns, and then groups. Products and sums are rounded one by one
   (-ffp-contract=off). `twin.py` is the same in numpy. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__FAST_MATH__) || (FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16)
#error "sums must be rounded one by one, to the precision of their type"
#endif

#define TILE 256
#define GROUP (16 * TILE)
#define LANES 8
#define INLINE static inline __attribute__((always_inline))

enum dtype { FLOAT64, FLOAT32, FLOAT16, BFLOAT16, DTYPES };
static const char *const NAMES[DTYPES] = {"float64", "float32", "float16", "bfloat16"};
static const Py_ssize_t ITEMSIZES[DTYPES] = {8, 4, 2, 2};

/* Values of K sources, (K, columns): rows lie `stride` bytes apart. */
struct stored {
    const char *data;
    enum dtype dtype;
    Py_ssize_t itemsize, stride, columns;
    int k;
};

struct loops {
    int vector_bytes;
    void (*gram)(const struct stored *from, int m, double *tile, double *rows, double *energy);
    void (*products)(const struct stored *from, int m, double *tile, double *rows);
    void (*squares)(const struct stored *from, double *out);
    int (*combine)(const struct stored *from, const double *weights, char *out);
};

#define VECTOR_BYTES 16
#define NAME(name) name##_16
#include "_sums.h"
#undef VECTOR_BYTES
#undef NAME

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define WIDER

#pragma GCC push_options
#pragma GCC target("avx2")
#define VECTOR_BYTES 32
#define NAME(name) name##_32
#include "_sums.h"
#undef VECTOR_BYTES
#undef NAME
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#define VECTOR_BYTES 64
#define NAME(name) name##_64
#include "_sums.h"
#undef VECTOR_BYTES
#undef NAME
#pragma GCC pop_options
#endif

static const struct loops *loops = &loops_16;

/* The widest loops that this processor has, of vectors of at most so many bytes. */
static const struct loops *widest(int most)
{
#ifdef WIDER
    if (most >= 64 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return &loops_64;
    if (most >= 32 && __builtin_cpu_supports("avx2")) return &loops_32;
#endif
    (void)most;
    return &loops_16;
}

static int aligned(const Py_buffer *view) { return view->len == 0 || (uintptr_t)view->buf % (size_t)view->itemsize == 0; }

static int read_stored(PyObject *object, const char *name, Py_buffer *view, struct stored *found)
{
    int dtype = 0;
    while (dtype < DTYPES && strcmp(name, NAMES[dtype])) dtype++;
    if (dtype == DTYPES) {
        PyErr_Format(PyExc_ValueError, "there are no loops for %s", name);
        return 0;
    }
    if (PyObject_GetBuffer(object, view, PyBUF_STRIDES) < 0) return 0;
    if (view->ndim == 2 && view->shape[0] < 65536 && view->itemsize == ITEMSIZES[dtype] && aligned(view) &&
        (view->shape[1] < 2 || view->strides[1] == view->itemsize) && view->strides[0] % view->itemsize == 0) {
        *found = (struct stored){view->buf, (enum dtype)dtype, view->itemsize, view->strides[0], view->shape[1], (int)view->shape[0]};
        return 1;
    }
    PyErr_Format(PyExc_ValueError, "stored values of %s must be (K, n), with aligned elements of %zd bytes side by side", name, ITEMSIZES[dtype]);
    PyBuffer_Release(view);
    return 0;
}

/* A buffer of numbers side by side, so many of them. */
static int read_numbers(PyObject *object, int writable, Py_ssize_t itemsize, Py_ssize_t count, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0)) < 0) return 0;
    if (view->itemsize == itemsize && view->len == itemsize * count && aligned(view)) return 1;
    PyErr_Format(PyExc_ValueError, "%zd aligned elements of %zd bytes are needed, not %zd bytes", count, itemsize, view->len);
    PyBuffer_Release(view);
    return 0;
}

/* The last rows of a matrix of products, (M, N): M, or -1. */
static int read_rows(PyObject *object, int n, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0) return -1;
    if (view->ndim == 2 && view->itemsize == 8 && view->shape[1] == n && view->shape[0] <= n && aligned(view))
        return (int)view->shape[0];
    PyErr_Format(PyExc_ValueError, "rows must be aligned float64 (M, %d), with M at most %d", n, n);
    PyBuffer_Release(view);
    return -1;
}

static double *new_tile(int n)
{
    void *tile = NULL;
    if (posix_memalign(&tile, 64, sizeof(double) * TILE * (size_t)(n > 0 ? n : 1))) return NULL;
    return tile;
}

/* Add what was found of the products of the last M with all, of which the upper triangle is the lower one. */
static void add_rows(const double *found, int n, int m, double *rows)
{
    for (int r = 0; r < m; r++)
        for (int j = 0; j < n; j++) {
            int own = n - m + r;
            rows[(size_t)r * n + j] += j <= own ? found[(size_t)r * n + j] : found[(size_t)(j - n + m) * n + own];
        }
}

/* The next columns of what is stored, at most a group. */
static void next_group(const struct stored *whole, Py_ssize_t start, struct stored *group)
{
    *group = *whole;
    group->data = whole->data + start * whole->itemsize;
    group->columns = whole->columns - start < GROUP ? whole->columns - start : GROUP;
}

/* rows += the last rows of the products of steps (of values, and the newest's squared norm) or of residuals. */
static PyObject *add(PyObject *from, const char *name, PyObject *to, int of_steps)
{
    Py_buffer view, rows;
    struct stored stored;
    if (!read_stored(from, name, &view, &stored)) return NULL;
    int n = of_steps && stored.k > 0 ? stored.k - 1 : stored.k, m = read_rows(to, n, &rows);
    double energy = 0.0, *tile = NULL, *found = NULL;
    if (m >= 0) {
        tile = new_tile(n);
        found = calloc((size_t)m * (size_t)n + 1, sizeof(double));
        if (tile && found) {
            struct stored group;
            Py_BEGIN_ALLOW_THREADS;
            for (Py_ssize_t start = 0; n > 0 && start < stored.columns; start += GROUP) {
                double square = 0.0;
                next_group(&stored, start, &group);
                memset(found, 0, sizeof(double) * (size_t)m * (size_t)n);
                if (of_steps)
                    loops->gram(&group, m, tile, found, &square);
                else
                    loops->products(&group, m, tile, found);
                add_rows(found, n, m, rows.buf);
                energy += square;
            }
            Py_END_ALLOW_THREADS;
        } else {
            PyErr_NoMemory();
        }
        PyBuffer_Release(&rows);
    }
    PyBuffer_Release(&view);
    int done = tile && found;
    free(tile);
    free(found);
    return done ? PyFloat_FromDouble(energy) : NULL;
}

static PyObject *add_gram(PyObject *self, PyObject *args)
{
    PyObject *from, *to;
    const char *name;
    (void)self;
    return PyArg_ParseTuple(args, "OsO", &from, &name, &to) ? add(from, name, to, 1) : NULL;
}

static PyObject *add_products(PyObject *self, PyObject *args)
{
    PyObject *from, *to, *done;
    (void)self;
    if (!PyArg_ParseTuple(args, "OO", &from, &to)) return NULL;
    done = add(from, NAMES[FLOAT64], to, 0);
    if (!done) return NULL;
    Py_DECREF(done);
    Py_RETURN_NONE;
}

static PyObject *add_squares(PyObject *self, PyObject *args)
{
    PyObject *from, *to;
    const char *name;
    Py_buffer view, out;
    struct stored stored;
    (void)self;
    if (!PyArg_ParseTuple(args, "OsO", &from, &name, &to) || !read_stored(from, name, &view, &stored)) return NULL;
    Py_ssize_t count = 2 * (Py_ssize_t)stored.k - 1;
    double *found = NULL;
    if (read_numbers(to, 1, 8, count, &out)) {
        found = calloc((size_t)count, sizeof(double));
        if (found) {
            struct stored group;
            Py_BEGIN_ALLOW_THREADS;
            for (Py_ssize_t start = 0; start < stored.columns; start += GROUP) {
                next_group(&stored, start, &group);
                memset(found, 0, sizeof(double) * (size_t)count);
                loops->squares(&group, found);
                for (Py_ssize_t i = 0; i < count; i++) ((double *)out.buf)[i] += found[i];
            }
            Py_END_ALLOW_THREADS;
        } else {
            PyErr_NoMemory();
        }
        PyBuffer_Release(&out);
    }
    PyBuffer_Release(&view);
    if (!found) return NULL;
    free(found);
    Py_RETURN_NONE;
}

static PyObject *combine(PyObject *self, PyObject *args)
{
    PyObject *from, *by, *to;
    const char *name;
    Py_buffer view, weights, out;
    struct stored stored;
    int finite = -1;
    (void)self;
    if (!PyArg_ParseTuple(args, "OsOO", &from, &name, &by, &to) || !read_stored(from, name, &view, &stored)) return NULL;
    if (stored.k < 2) {
        PyErr_SetString(PyExc_ValueError, "a weighted sum is of two checkpoints or more");
    } else if (read_numbers(by, 0, 8, stored.k, &weights)) {
        if (read_numbers(to, 1, stored.itemsize, stored.columns, &out)) {
            Py_BEGIN_ALLOW_THREADS;
            finite = loops->combine(&stored, weights.buf, out.buf);
            Py_END_ALLOW_THREADS;
            PyBuffer_Release(&out);
        }
        PyBuffer_Release(&weights);
    }
    PyBuffer_Release(&view);
    return finite < 0 ? NULL : PyBool_FromLong(finite);
}

static PyObject *vector_bytes(PyObject *self, PyObject *args)
{
    int most = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "|i", &most)) return NULL;
    if (most) loops = widest(most);
    return PyLong_FromLong(loops->vector_bytes);
}

static PyMethodDef methods[] = {
    {"add_gram", add_gram, METH_VARARGS, NULL},
    {"add_products", add_products, METH_VARARGS, NULL},
    {"add_squares", add_squares, METH_VARARGS, NULL},
    {"combine", combine, METH_VARARGS, NULL},
    {"vector_bytes", vector_bytes, METH_VARARGS, "The bytes of a vector; with an argument, from now on at most so many."},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef definition = {.m_base = PyModuleDef_HEAD_INIT, .m_name = "_loops", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__loops(void)
{
    loops = widest(64);
    return PyModule_Create(&definition);
}
