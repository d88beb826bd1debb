/* The loops themselves, included once for each width of a processor's vectors: VECTOR_BYTES, and NAME(x) for what they are called.

   Widths differ in speed alone: LANES sums run beside each other in the order of the columns, whatever the width. */

typedef double NAME(vector) __attribute__((vector_size(VECTOR_BYTES)));
#define VECTOR NAME(vector)
#define WIDTH (VECTOR_BYTES / 8)
#define PARTS (LANES / WIDTH)

/* Stored values as float64, exactly (infinities and NaN as something that is not finite); zeros up to the next LANES columns. */
INLINE void NAME(widen)(const char *stored, enum dtype dtype, int count, double *restrict out)
{
    float single[TILE] __attribute__((aligned(64)));
    uint32_t bits[TILE] __attribute__((aligned(64)));
    const uint16_t *half = (const uint16_t *)stored;
    switch (dtype) {
    case FLOAT64:
        memcpy(out, stored, 8 * (size_t)count);
        break;
    case FLOAT32:
        for (int c = 0; c < count; c++) out[c] = ((const float *)stored)[c];
        break;
    case BFLOAT16:
        for (int c = 0; c < count; c++) bits[c] = (uint32_t)half[c] << 16;
        memcpy(single, bits, 4 * (size_t)count);
        for (int c = 0; c < count; c++) out[c] = single[c];
        break;
    default: /* float16: 112 is what the exponents of a float32 are larger by; a subnormal one is what is above 2^-14 */
        for (int c = 0; c < count; c++) {
            uint32_t size = (half[c] & 0x7fffu) << 13, exponent = half[c] & 0x7c00u;
            bits[c] = size + ((exponent == 0 ? 113u : exponent == 0x7c00u ? 224u : 112u) << 23);
        }
        memcpy(single, bits, 4 * (size_t)count);
        for (int c = 0; c < count; c++) {
            double value = single[c];
            value -= half[c] & 0x7c00u ? 0.0 : 0x1p-14;
            out[c] = half[c] & 0x8000u ? -value : value;
        }
    }
    for (int c = count; c % LANES; c++) out[c] = 0.0;
}

/* Sums in a stored dtype, rounded to nearest, ties to even; to bfloat16 by way of float32. They are finite. */
INLINE void NAME(narrow)(const double *restrict total, enum dtype dtype, int count, char *out)
{
    float single[TILE] __attribute__((aligned(64)));
    uint32_t bits[TILE] __attribute__((aligned(64)));
    uint64_t wide[TILE] __attribute__((aligned(64)));
    double rounder[TILE] __attribute__((aligned(64)));
    uint16_t *half = (uint16_t *)out;
    switch (dtype) {
    case FLOAT64:
        memcpy(out, total, 8 * (size_t)count);
        break;
    case FLOAT32:
        for (int c = 0; c < count; c++) ((float *)out)[c] = (float)total[c];
        break;
    case BFLOAT16:
        for (int c = 0; c < count; c++) single[c] = (float)total[c];
        memcpy(bits, single, 4 * (size_t)count);
        for (int c = 0; c < count; c++) half[c] = (uint16_t)((bits[c] + 0x7fffu + (bits[c] >> 16 & 1u)) >> 16);
        break;
    default: /* float16: 1.5 * 2^(42 + exponent), added and taken away, leaves 11 bits; from 2^-14 on down as many as fit */
        memcpy(wide, total, 8 * (size_t)count);
        for (int c = 0; c < count; c++) {
            uint64_t exponent = wide[c] >> 52 & 0x7ffu;
            exponent = exponent < 1009 ? 1009 : exponent > 1100 ? 1100 : exponent;
            wide[c] = (exponent + 42) << 52 | (uint64_t)1 << 51;
        }
        memcpy(rounder, wide, 8 * (size_t)count);
        for (int c = 0; c < count; c++) {
            double size = fabs(total[c]);
            size = (size + rounder[c]) - rounder[c];
            single[c] = (float)(size < 65536.0 ? size : 65536.0);
        }
        for (int c = 0; c < count; c++) {
            /* both are exact: a subnormal number counts 2^-24, a larger one has an exponent that is 112 smaller */
            int32_t small = (int32_t)(single[c] * 0x1p24f < 1024.0f ? single[c] * 0x1p24f : 1024.0f);
            bits[c] = (uint32_t)small;
        }
        memcpy(wide, total, 8 * (size_t)count);
        for (int c = 0; c < count; c++) {
            uint32_t size;
            memcpy(&size, single + c, 4);
            size = bits[c] < 1024u ? bits[c] : (size - (112u << 23)) >> 13;
            half[c] = (uint16_t)(size | (uint32_t)(wide[c] >> 48 & 0x8000u));
        }
    }
}

INLINE double NAME(sum)(const VECTOR *parts)
{
    double s[LANES] __attribute__((aligned(64)));
    for (int i = 0; i < PARTS; i++) *(VECTOR *)(s + i * WIDTH) = parts[i];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

INLINE double NAME(square)(const double *a, int count)
{
    VECTOR s[PARTS] = {{0}};
    for (int c = 0; c < count; c += LANES)
        for (int i = 0; i < PARTS; i++) {
            VECTOR x = *(const VECTOR *)(a + c + i * WIDTH);
            s[i] += x * x;
        }
    return NAME(sum)(s);
}

/* Add the products of the last M residuals of a tile with those up to themselves, two by two: each value is loaded for four. */
INLINE void NAME(add_products)(const double *tile, int count, int n, int m, double *rows)
{
    for (int r = n - m; r < n; r += 2) {
        int r2 = r + 1 < n ? r + 1 : r;
        const double *a = tile + (size_t)r * TILE, *b = tile + (size_t)r2 * TILE;
        double *row = rows + (size_t)(r - n + m) * n, *row2 = rows + (size_t)(r2 - n + m) * n;
        for (int j = 0; j <= r2; j += 2) {
            int j2 = j + 1 <= r2 ? j + 1 : j;
            const double *p = tile + (size_t)j * TILE, *q = tile + (size_t)j2 * TILE;
            VECTOR ap[PARTS] = {{0}}, aq[PARTS] = {{0}}, bp[PARTS] = {{0}}, bq[PARTS] = {{0}};
            for (int c = 0; c < count; c += LANES)
                for (int i = 0; i < PARTS; i++) {
                    int at = c + i * WIDTH;
                    VECTOR x = *(const VECTOR *)(a + at), y = *(const VECTOR *)(b + at);
                    VECTOR u = *(const VECTOR *)(p + at), v = *(const VECTOR *)(q + at);
                    ap[i] += x * u;
                    aq[i] += x * v;
                    bp[i] += y * u;
                    bq[i] += y * v;
                }
            row[j] += NAME(sum)(ap);
            if (j2 > j && j2 <= r) row[j2] += NAME(sum)(aq);
            if (r2 > r) row2[j] += NAME(sum)(bp);
            if (r2 > r && j2 > j) row2[j2] += NAME(sum)(bq);
        }
    }
}

/* The steps d_i = y_(i+1) - y_i of a tile; the newest iterate is left in values[n % 2]. */
INLINE void NAME(steps)(const char *at, Py_ssize_t stride, enum dtype dtype, int count, int n, double values[2][TILE], double *tile)
{
    NAME(widen)(at, dtype, count, values[0]);
    for (int i = 0; i < n; i++) {
        const double *older = values[i % 2];
        double *newer = values[(i + 1) % 2], *step = tile + (size_t)i * TILE;
        NAME(widen)(at + (i + 1) * stride, dtype, count, newer);
        for (int c = 0; c < TILE; c++) step[c] = newer[c] - older[c];
    }
}

static void NAME(gram)(const struct stored *from, int m, double *tile, double *rows, double *energy)
{
    double values[2][TILE] __attribute__((aligned(64))) = {{0}};
    int n = from->k - 1;
    for (Py_ssize_t start = 0; start < from->columns; start += TILE) {
        int count = from->columns - start < TILE ? (int)(from->columns - start) : TILE;
        const char *at = from->data + start * from->itemsize;
        switch (from->dtype) { /* each with its own loops */
        case FLOAT64:
            NAME(steps)(at, from->stride, FLOAT64, count, n, values, tile);
            break;
        case FLOAT32:
            NAME(steps)(at, from->stride, FLOAT32, count, n, values, tile);
            break;
        case BFLOAT16:
            NAME(steps)(at, from->stride, BFLOAT16, count, n, values, tile);
            break;
        default:
            NAME(steps)(at, from->stride, FLOAT16, count, n, values, tile);
        }
        *energy += NAME(square)(values[n % 2], count);
        NAME(add_products)(tile, count, n, m, rows);
    }
}

static void NAME(products)(const struct stored *from, int m, double *tile, double *rows)
{
    for (Py_ssize_t start = 0; start < from->columns; start += TILE) {
        int count = from->columns - start < TILE ? (int)(from->columns - start) : TILE;
        for (int i = 0; i < from->k; i++)
            NAME(widen)(from->data + i * from->stride + start * 8, FLOAT64, count, tile + (size_t)i * TILE);
        NAME(add_products)(tile, count, from->k, m, rows);
    }
}

static void NAME(squares)(const struct stored *from, double *out)
{
    double values[2][TILE] __attribute__((aligned(64))) = {{0}};
    for (Py_ssize_t start = 0; start < from->columns; start += TILE) {
        int count = from->columns - start < TILE ? (int)(from->columns - start) : TILE;
        for (int k = 0; k < from->k; k++) {
            double *older = values[(k + 1) % 2], *newer = values[k % 2];
            NAME(widen)(from->data + k * from->stride + start * from->itemsize, from->dtype, count, newer);
            out[k] += NAME(square)(newer, count);
            if (k == 0) continue;
            for (int c = 0; c < TILE; c++) older[c] = newer[c] - older[c];
            out[from->k + k - 1] += NAME(square)(older, count);
        }
    }
}

INLINE void NAME(add_steps)(const char *at, Py_ssize_t stride, enum dtype dtype, int count, int k, const double *weights,
                            double *restrict newest, double *restrict value, double *restrict total)
{
    NAME(widen)(at + (k - 1) * stride, dtype, count, newest);
    for (int i = 0; i < k - 1; i++) {
        double weight = weights[i];
        NAME(widen)(at + i * stride, dtype, count, value);
        if (i == 0)
            for (int c = 0; c < count; c++) total[c] = (value[c] - newest[c]) * weight;
        else
            for (int c = 0; c < count; c++) total[c] += (value[c] - newest[c]) * weight;
    }
}

/* Whether all sums are finite; what is written is right only then. */
static int NAME(combine)(const struct stored *from, const double *weights, char *out)
{
    double total[TILE] __attribute__((aligned(64))), newest[TILE] __attribute__((aligned(64)));
    double value[TILE] __attribute__((aligned(64)));
    for (Py_ssize_t start = 0; start < from->columns; start += TILE) {
        int count = from->columns - start < TILE ? (int)(from->columns - start) : TILE;
        const char *at = from->data + start * from->itemsize;
        switch (from->dtype) {
        case FLOAT64:
            NAME(add_steps)(at, from->stride, FLOAT64, count, from->k, weights, newest, value, total);
            break;
        case FLOAT32:
            NAME(add_steps)(at, from->stride, FLOAT32, count, from->k, weights, newest, value, total);
            break;
        case BFLOAT16:
            NAME(add_steps)(at, from->stride, BFLOAT16, count, from->k, weights, newest, value, total);
            break;
        default:
            NAME(add_steps)(at, from->stride, FLOAT16, count, from->k, weights, newest, value, total);
        }
        for (int c = 0; c < count; c++) {
            double sum = total[c] + newest[c];
            total[c] = total[c] == 0.0 ? newest[c] : sum; /* 0.0 + -0.0 is 0.0, other bits than the newest's */
        }
        uint64_t bad = 0;
        for (int c = 0; c < count; c++) bad |= fabs(total[c]) <= DBL_MAX ? 0 : 1;
        if (bad) return 0;
        NAME(narrow)(total, from->dtype, count, out + start * from->itemsize);
    }
    return 1;
}

static const struct loops NAME(loops) = {VECTOR_BYTES, NAME(gram), NAME(products), NAME(squares), NAME(combine)};

#undef VECTOR
#undef WIDTH
#undef PARTS
