// BatchNorm in training with what follows it (a sum, a ReLU) in few passes over memory, for features whose channels lie last.
//
// A feature map is a row of `count` values, channel = index % channels. It is walked through in stretches of `length` values, a
// multiple of both `channels` and 16, with the channels' constants repeated to that length: plain loops that compilers vectorise
// whatever the number of channels. The last stretch may be short. Values are float32 or bfloat16, sums are float32.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

struct bf16 {
    uint16_t bits;
};

inline float get(float value) { return value; }

inline float get(bf16 value) {
    uint32_t wide = static_cast<uint32_t>(value.bits) << 16;
    float result;
    std::memcpy(&result, &wide, 4);
    return result;
}

inline void put(float& place, float value) { place = value; }

inline void put(bf16& place, float value) {  // round to nearest, ties to even
    uint32_t wide;
    std::memcpy(&wide, &value, 4);
    place.bits = static_cast<uint16_t>((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
}

int stretch_length(int channels) {
    int length = channels;
    while (length % 16) length += channels;
    while (length < 64) length *= 2;
    return length;
}

template <class Body>
inline void walk(long count, int length, Body body) {
    long start = 0;
    for (; start + length <= count; start += length) body(start, length);
    if (start < count) body(start, static_cast<int>(count - start));
}

std::vector<float> repeat(const float* values, int channels, int length) {
    std::vector<float> repeated(length);
    for (int j = 0; j < length; ++j) repeated[j] = values[j % channels];
    return repeated;
}

void fold(const std::vector<float>& sums, int channels, float* result) {
    for (int c = 0; c < channels; ++c) {
        double total = 0;
        for (size_t j = c; j < sums.size(); j += channels) total += sums[j];
        result[c] = static_cast<float>(total);
    }
}

template <class T, bool SUM, bool RELU>
void forward_loop(const T* __restrict x, const T* __restrict shortcut, T* __restrict y, long count, int length, const float* __restrict scale,
                  const float* __restrict shift) {
    walk(count, length, [&](long start, int size) {
        const T* __restrict from = x + start;
        const T* __restrict side = SUM ? shortcut + start : nullptr;
        T* __restrict to = y + start;
#pragma GCC ivdep
        for (int j = 0; j < size; ++j) {
            float value = get(from[j]) * scale[j] + shift[j];
            if (SUM) value += get(side[j]);
            put(to[j], RELU && value < 0 ? 0.0f : value);
        }
    });
}

template <class T>
void forward(const T* x, const T* shortcut, T* y, long count, int channels, const float* weight, const float* bias, float* running_mean,
             float* running_variance, float keep, float epsilon, float* mean, float* inverse, bool relu) {
    const int length = stretch_length(channels);
    const float rows = static_cast<float>(count / channels);
    std::vector<float> sums(length, 0.0f), scale(channels), shift(channels), variance(channels);
    float* __restrict total = sums.data();
    walk(count, length, [&](long start, int size) {
        const T* __restrict from = x + start;
#pragma GCC ivdep
        for (int j = 0; j < size; ++j) total[j] += get(from[j]);
    });
    fold(sums, channels, mean);
    for (int c = 0; c < channels; ++c) mean[c] /= rows;
    const std::vector<float> centres = repeat(mean, channels, length);
    const float* __restrict centre = centres.data();
    sums.assign(length, 0.0f);
    walk(count, length, [&](long start, int size) {
        const T* __restrict from = x + start;
#pragma GCC ivdep
        for (int j = 0; j < size; ++j) {
            const float value = get(from[j]) - centre[j];
            total[j] += value * value;
        }
    });
    fold(sums, channels, variance.data());
    for (int c = 0; c < channels; ++c) {
        variance[c] /= rows;
        inverse[c] = 1.0f / std::sqrt(variance[c] + epsilon);
        scale[c] = weight[c] * inverse[c];
        shift[c] = bias[c] - mean[c] * scale[c];
        running_mean[c] = keep * running_mean[c] + (1 - keep) * mean[c];
        running_variance[c] = keep * running_variance[c] + (1 - keep) * variance[c];
    }
    const std::vector<float> scales = repeat(scale.data(), channels, length), shifts = repeat(shift.data(), channels, length);
    if (shortcut && relu)
        forward_loop<T, true, true>(x, shortcut, y, count, length, scales.data(), shifts.data());
    else if (relu)
        forward_loop<T, false, true>(x, shortcut, y, count, length, scales.data(), shifts.data());
    else
        forward_loop<T, false, false>(x, shortcut, y, count, length, scales.data(), shifts.data());
}

// `gy` is the gradient of the output. Behind a ReLU what it lets through is kept in `masked`, which is the shortcut's gradient too.
template <class T, bool RELU>
void backward(const T* x, const T* y, const T* gy, T* masked, T* gx, long count, int channels, const float* weight, const float* mean,
              const float* inverse, float* g_weight, float* g_bias) {
    const int length = stretch_length(channels);
    const float rows = static_cast<float>(count / channels);
    const std::vector<float> centres = repeat(mean, channels, length);
    std::vector<float> sums(length, 0.0f), products(length, 0.0f);
    const float* __restrict centre = centres.data();
    float* __restrict sum = sums.data();
    float* __restrict product = products.data();
    walk(count, length, [&](long start, int size) {
        const T* __restrict from = x + start;
        const T* __restrict out = RELU ? y + start : nullptr;
        const T* __restrict slope = gy + start;
        T* __restrict keep = RELU ? masked + start : nullptr;
#pragma GCC ivdep
        for (int j = 0; j < size; ++j) {
            float g = get(slope[j]);
            if (RELU) {
                g = get(out[j]) > 0 ? g : 0.0f;
                put(keep[j], g);
            }
            sum[j] += g;
            product[j] += g * (get(from[j]) - centre[j]);
        }
    });
    fold(sums, channels, g_bias);
    fold(products, channels, g_weight);
    std::vector<float> a(channels), b(channels), d(channels);  // gx = a * g + b * x + d
    for (int c = 0; c < channels; ++c) {
        g_weight[c] *= inverse[c];
        a[c] = weight[c] * inverse[c];
        b[c] = -a[c] * inverse[c] * g_weight[c] / rows;
        d[c] = -a[c] * g_bias[c] / rows - b[c] * mean[c];
    }
    const std::vector<float> as = repeat(a.data(), channels, length), bs = repeat(b.data(), channels, length),
                             ds = repeat(d.data(), channels, length);
    const float* __restrict wa = as.data();
    const float* __restrict wb = bs.data();
    const float* __restrict wd = ds.data();
    walk(count, length, [&](long start, int size) {
        const T* __restrict from = x + start;
        const T* __restrict slope = (RELU ? masked : gy) + start;
        T* __restrict to = gx + start;
#pragma GCC ivdep
        for (int j = 0; j < size; ++j) put(to[j], wa[j] * get(slope[j]) + wb[j] * get(from[j]) + wd[j]);
    });
}

}  // namespace

extern "C" {

void bn_forward(int half, const void* x, const void* shortcut, void* y, long count, int channels, const float* weight, const float* bias,
                float* running_mean, float* running_variance, float keep, float epsilon, float* mean, float* inverse, int relu) {
    if (half)
        forward(static_cast<const bf16*>(x), static_cast<const bf16*>(shortcut), static_cast<bf16*>(y), count, channels, weight, bias,
                running_mean, running_variance, keep, epsilon, mean, inverse, relu);
    else
        forward(static_cast<const float*>(x), static_cast<const float*>(shortcut), static_cast<float*>(y), count, channels, weight, bias,
                running_mean, running_variance, keep, epsilon, mean, inverse, relu);
}

void bn_backward(int half, const void* x, const void* y, const void* gy, void* masked, void* gx, long count, int channels,
                 const float* weight, const float* mean, const float* inverse, float* g_weight, float* g_bias, int relu) {
    auto run = [&](auto zero) {
        using T = decltype(zero);
        auto* call = relu ? &backward<T, true> : &backward<T, false>;
        call(static_cast<const T*>(x), static_cast<const T*>(y), static_cast<const T*>(gy), static_cast<T*>(masked), static_cast<T*>(gx),
             count, channels, weight, mean, inverse, g_weight, g_bias);
    };
    if (half)
        run(bf16{});
    else
        run(0.0f);
}
}
