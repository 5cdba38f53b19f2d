/* Resizing along one side with Pillow's filters, to the bit, and only for the pixels that are kept.

   In: which pixels each pixel of the result takes, as `taps` makes them; lines of pixels, uint8.
   Out: the resized lines, written into a buffer of the caller's.

   The arithmetic is that of Pillow's libImaging/Resample.c: weights are doubles, then fixed-point numbers with 22
   bits after the point; sums are rounded and clipped to 8 bits. The columns come first, then the rows.

   Here a weight is 2048 · high + low, two numbers of 16 bits, because AVX2 multiplies and adds sixteen of those in
   one instruction. The sum is the same integer in whichever order it is added up. A processor without AVX2 runs
   the plain loops, with the same result.
*/

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_AVX2_CODE
#include <cpuid.h>
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))
#endif

#define BITS (32 - 8 - 2)
#define HALF (1 << (BITS - 1))
#define LOW_BITS 11

static double bilinear(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double bicubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

static double sinc(double x) {
    if (x == 0.0) return 1.0;
    x = x * 3.14159265358979323846;
    return sin(x) / x;
}

static double lanczos(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

typedef struct {
    double (*weight)(double);
    double reach; /* in pixels of the smaller picture */
} Filter;

static const Filter FILTERS[] = {{bilinear, 1.0}, {bicubic, 2.0}, {lanczos, 3.0}};

/* What the pixels of a result take: pixel i takes `counts[i]` pixels from `firsts[i]` on. Its weights begin at
   i * width, in both arrays; width is even, and the weights from counts[i] on are 0. */
typedef struct {
    int32_t length, width;
    const int32_t *firsts, *counts;
    const int16_t *highs, *lows;
} Taps;

static Py_ssize_t num_bytes(Py_ssize_t length, Py_ssize_t width) {
    return 8 + 2 * length * (Py_ssize_t)sizeof(int32_t) + 2 * length * width * (Py_ssize_t)sizeof(int16_t);
}

/* The taps in a buffer that `taps` filled; 0 if it cannot be one, or they leave the pixels `begin` to `end`. */
static int read_taps(const Py_buffer *buffer, Py_ssize_t begin, Py_ssize_t end, Taps *taps) {
    const int32_t *head = buffer->buf;
    if (buffer->len < 8 || head[0] < 1 || head[1] < 2 || head[1] % 2) return 0;
    if (buffer->len != num_bytes(head[0], head[1])) return 0;
    taps->length = head[0], taps->width = head[1];
    taps->firsts = head + 2;
    taps->counts = taps->firsts + taps->length;
    taps->highs = (const int16_t *)(taps->counts + taps->length);
    taps->lows = taps->highs + (Py_ssize_t)taps->length * taps->width;
    for (int32_t i = 0; i < taps->length; i++)
        if (taps->counts[i] < 1 || taps->counts[i] > taps->width || taps->firsts[i] < begin ||
            taps->firsts[i] > end - taps->counts[i])
            return 0;
    return 1;
}

static PyObject *make_taps(PyObject *self, PyObject *arguments) {
    Py_ssize_t size, resized, start, length;
    int kind;
    if (!PyArg_ParseTuple(arguments, "nnnni", &size, &resized, &start, &length, &kind)) return NULL;
    if (size < 1 || size > INT32_MAX || resized < 1 || length < 1 || start < 0 || start > resized - length ||
        kind < 0 || kind > 2)
        return PyErr_Format(PyExc_ValueError, "no such side, part or filter");
    double scale = (double)size / resized, widened = scale < 1.0 ? 1.0 : scale;
    double reach = FILTERS[kind].reach * widened, step = 1.0 / widened;
    Py_ssize_t width = 2 * (Py_ssize_t)ceil(reach) + 2;
    if (length > INT32_MAX / width / 8) return PyErr_Format(PyExc_ValueError, "the part is too large");
    PyObject *made = PyBytes_FromStringAndSize(NULL, num_bytes(length, width));
    double *exact = PyMem_Malloc(width * sizeof(double));
    if (!made || !exact) {
        Py_XDECREF(made);
        PyMem_Free(exact);
        return PyErr_NoMemory();
    }
    int32_t *head = (int32_t *)PyBytes_AS_STRING(made);
    memset(head, 0, num_bytes(length, width));
    head[0] = (int32_t)length, head[1] = (int32_t)width;
    int32_t *firsts = head + 2, *counts = firsts + length;
    int16_t *high = (int16_t *)(counts + length), *low = high + length * width;
    for (Py_ssize_t i = 0; i < length; i++, high += width, low += width) {
        double centre = (start + i + 0.5) * scale, sum = 0.0;
        Py_ssize_t first = (Py_ssize_t)(centre - reach + 0.5), end = (Py_ssize_t)(centre + reach + 0.5);
        first = first < 0 ? 0 : first;
        end = end > size ? size : end;
        for (Py_ssize_t t = 0; t < end - first; t++)
            sum += exact[t] = FILTERS[kind].weight((t + first - centre + 0.5) * step);
        for (Py_ssize_t t = 0; t < end - first; t++) {
            double weight = (sum != 0.0 ? exact[t] / sum : exact[t]) * (1 << BITS);
            int32_t whole = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
            high[t] = (int16_t)(whole >> LOW_BITS);
            low[t] = (int16_t)(whole & ((1 << LOW_BITS) - 1));
        }
        firsts[i] = (int32_t)first;
        counts[i] = (int32_t)(end - first);
    }
    PyMem_Free(exact);
    return made;
}

static inline uint8_t clipped(int32_t sum) {
    sum >>= BITS;
    return sum < 0 ? 0 : sum > 255 ? 255 : (uint8_t)sum;
}

static inline int32_t weight_of(const Taps *taps, Py_ssize_t place) {
    return taps->highs[place] * (1 << LOW_BITS) + taps->lows[place];
}

static int is_avx2; /* set when the module is imported; not const, so that a test runs both */

#ifdef HAS_AVX2_CODE
static int has_avx2(void) {
    unsigned a, b, c, d, state, upper;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    __asm__("xgetbv" : "=a"(state), "=d"(upper) : "c"(0)); /* whether the system keeps the wide registers */
    return (state & 6) == 6 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}

AVX2 static inline __m256i copies(const int16_t *pair) { /* of two weights, eight */
    int32_t both;
    memcpy(&both, pair, sizeof both);
    return _mm256_set1_epi32(both);
}

AVX2 static inline __m256i levels(__m256i high, __m256i low) { /* not clipped yet */
    __m256i sums = _mm256_add_epi32(_mm256_slli_epi32(high, LOW_BITS), low);
    return _mm256_srai_epi32(_mm256_add_epi32(sums, _mm256_set1_epi32(HALF)), BITS);
}

AVX2 static inline __m128i one_pixel(const uint8_t *from) {
    int32_t pixel;
    memcpy(&pixel, from, sizeof pixel);
    return _mm_cvtsi32_si128(pixel);
}

/* Two lines of pixels of 4 bytes at once, each in a half of the registers; `by` bytes lie between them. */
AVX2 static void resize_two_lines(
    const uint8_t *line, Py_ssize_t by, const Taps *taps, uint8_t *to, Py_ssize_t to_by) {
    const __m256i zero = _mm256_setzero_si256();
    for (int32_t x = 0; x < taps->length; x++, to += 4) {
        const uint8_t *from = line + (Py_ssize_t)taps->firsts[x] * 4;
        const int16_t *highs = taps->highs + (Py_ssize_t)x * taps->width;
        const int16_t *lows = taps->lows + (Py_ssize_t)x * taps->width;
        __m256i high = zero, low = zero;
        for (int32_t t = 0; t < taps->counts[x]; t += 2, from += 8) {
            __m128i one, other; /* two pixels of each line; only one where the line may end */
            if (t + 1 < taps->counts[x]) {
                one = _mm_loadl_epi64((const __m128i *)from);
                other = _mm_loadl_epi64((const __m128i *)(from + by));
            } else {
                one = one_pixel(from);
                other = one_pixel(from + by);
            }
            __m256i pairs = _mm256_inserti128_si256(_mm256_castsi128_si256(one), other, 1);
            pairs = _mm256_unpacklo_epi8(pairs, _mm256_srli_si256(pairs, 4)); /* pairs of each channel */
            pairs = _mm256_unpacklo_epi8(pairs, zero);
            high = _mm256_add_epi32(high, _mm256_madd_epi16(pairs, copies(highs + t)));
            low = _mm256_add_epi32(low, _mm256_madd_epi16(pairs, copies(lows + t)));
        }
        __m256i words = _mm256_packs_epi32(levels(high, low), zero);
        __m256i bytes = _mm256_packus_epi16(words, zero);
        int32_t one = _mm256_extract_epi32(bytes, 0), other = _mm256_extract_epi32(bytes, 4);
        memcpy(to, &one, sizeof one);
        memcpy(to + to_by, &other, sizeof other);
    }
}

/* Bytes of one line of the result, as many as are a multiple of 32; returns how many. */
AVX2 static Py_ssize_t resize_32_bytes(
    const uint8_t *lines, Py_ssize_t num, const Taps *taps, int32_t y, uint8_t *to) {
    const __m256i zero = _mm256_setzero_si256();
    const int16_t *highs = taps->highs + (Py_ssize_t)y * taps->width;
    const int16_t *lows = taps->lows + (Py_ssize_t)y * taps->width;
    Py_ssize_t x = 0;
    for (; x + 32 <= num; x += 32) {
        __m256i high[4] = {zero, zero, zero, zero}, low[4] = {zero, zero, zero, zero};
        for (int32_t t = 0; t < taps->counts[y]; t += 2) {
            const uint8_t *from = lines + t * num + x;
            __m256i one = _mm256_loadu_si256((const __m256i *)from), other = one; /* whose weight is 0 */
            if (t + 1 < taps->counts[y]) other = _mm256_loadu_si256((const __m256i *)(from + num));
            __m256i left = _mm256_unpacklo_epi8(one, other), right = _mm256_unpackhi_epi8(one, other);
            __m256i pairs[4] = {_mm256_unpacklo_epi8(left, zero), _mm256_unpackhi_epi8(left, zero),
                                _mm256_unpacklo_epi8(right, zero), _mm256_unpackhi_epi8(right, zero)};
            __m256i upper = copies(highs + t), lower = copies(lows + t);
            for (int k = 0; k < 4; k++) {
                high[k] = _mm256_add_epi32(high[k], _mm256_madd_epi16(pairs[k], upper));
                low[k] = _mm256_add_epi32(low[k], _mm256_madd_epi16(pairs[k], lower));
            }
        }
        __m256i first = _mm256_packs_epi32(levels(high[0], low[0]), levels(high[1], low[1]));
        __m256i last = _mm256_packs_epi32(levels(high[2], low[2]), levels(high[3], low[3]));
        _mm256_storeu_si256((__m256i *)(to + x), _mm256_packus_epi16(first, last));
    }
    return x;
}
#endif

static void resize_line(const uint8_t *line, int channels, const Taps *taps, uint8_t *to) {
    for (int32_t x = 0; x < taps->length; x++)
        for (int c = 0; c < channels; c++) {
            const uint8_t *from = line + (Py_ssize_t)taps->firsts[x] * channels + c;
            int32_t sum = HALF;
            for (int32_t t = 0; t < taps->counts[x]; t++)
                sum += from[t * channels] * weight_of(taps, (Py_ssize_t)x * taps->width + t);
            *to++ = clipped(sum);
        }
}

/* Each of `num` lines of `line` bytes; the first of them begins where the taps count from. */
static void resize_lines(const uint8_t *from, Py_ssize_t num, Py_ssize_t line, int channels, const Taps *taps,
                         uint8_t *to) {
    Py_ssize_t made = (Py_ssize_t)taps->length * channels;
    Py_ssize_t y = 0;
#ifdef HAS_AVX2_CODE
    for (; is_avx2 && channels == 4 && y + 2 <= num; y += 2)
        resize_two_lines(from + y * line, line, taps, to + y * made, made);
#endif
    for (; y < num; y++) resize_line(from + y * line, channels, taps, to + y * made);
}

/* One line of the result of `num` bytes; `lines` begins with the first line that it takes. */
static void resize_down(const uint8_t *lines, Py_ssize_t num, const Taps *taps, int32_t y, uint8_t *to) {
    Py_ssize_t x = 0;
#ifdef HAS_AVX2_CODE
    if (is_avx2) x = resize_32_bytes(lines, num, taps, y, to);
#endif
    for (; x < num; x++) {
        int32_t sum = HALF;
        for (int32_t t = 0; t < taps->counts[y]; t++)
            sum += lines[t * num + x] * weight_of(taps, (Py_ssize_t)y * taps->width + t);
        to[x] = clipped(sum);
    }
}

/* Pixels `begin` to `begin + given` of each line or column are in the buffer. */
static PyObject *resize(PyObject *arguments, int is_across) {
    Py_buffer pixels, taps_buffer, made;
    Py_ssize_t begin, given;
    int channels;
    if (!PyArg_ParseTuple(arguments, "y*inny*w*", &pixels, &channels, &begin, &given, &taps_buffer, &made))
        return NULL;
    Taps taps;
    Py_ssize_t line = is_across ? given * channels : given > 0 ? pixels.len / given : 0;
    int fits = channels > 0 && channels <= 4 && begin >= 0 && given > 0 && given <= INT32_MAX && line > 0 &&
               read_taps(&taps_buffer, begin, begin + given, &taps);
    Py_ssize_t lines = fits ? pixels.len / line : 0;
    if (fits && is_across)
        fits = pixels.len == lines * line && made.len == lines * taps.length * channels;
    else if (fits)
        fits = pixels.len == given * line && made.len == taps.length * line;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS;
        const uint8_t *from = pixels.buf;
        uint8_t *to = made.buf;
        if (is_across)
            resize_lines(from - begin * channels, lines, line, channels, &taps, to);
        else
            for (int32_t y = 0; y < taps.length; y++)
                resize_down(from + (taps.firsts[y] - begin) * line, line, &taps, y, to + y * line);
        Py_END_ALLOW_THREADS;
    } else
        PyErr_SetString(PyExc_ValueError, "pixels, taps and result do not fit together");
    PyBuffer_Release(&pixels);
    PyBuffer_Release(&taps_buffer);
    PyBuffer_Release(&made);
    if (!fits) return NULL;
    Py_RETURN_NONE;
}

static PyObject *columns(PyObject *self, PyObject *arguments) { return resize(arguments, 1); }

static PyObject *rows(PyObject *self, PyObject *arguments) { return resize(arguments, 0); }

static PyObject *use_avx2(PyObject *self, PyObject *arguments) {
    int is_wanted;
    if (!PyArg_ParseTuple(arguments, "p", &is_wanted)) return NULL;
#ifdef HAS_AVX2_CODE
    is_avx2 = is_wanted && has_avx2();
#endif
    return PyBool_FromLong(is_avx2);
}

static PyMethodDef methods[] = {
    {"use_avx2", use_avx2, METH_VARARGS, "use_avx2(is_wanted) -> whether it is used from now on"},
    {"taps", make_taps, METH_VARARGS, "taps(size, resized, start, length, filter) -> bytes"},
    {"columns", columns, METH_VARARGS, "columns(pixels, channels, begin, given, taps, lines)"},
    {"rows", rows, METH_VARARGS, "rows(lines, channels, begin, given, taps, pixels)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_resample", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit__resample(void) {
#ifdef HAS_AVX2_CODE
    is_avx2 = has_avx2();
#endif
    return PyModule_Create(&module);
}
