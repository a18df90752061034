// Trains a small residual network. A vector register holds the same number of several images (lanes): each lane computes its part of
// every batch, and BatchNorm's sums and the gradients are summed over the lanes. So all arithmetic works on full registers,
// whatever the channel counts are, and the features of a layer stay in the second cache.
//
// Memory: features [image][row][column][channel][lane]. What a convolution reads has a border of one zero pixel. Parameters
// are one block: per convolution the weight [kernel row][kernel column][in][out], BatchNorm's weight and bias; last
// the linear layer's weight [in][out] and bias.

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

namespace {

// LANES fill a register. Without AVX-512 there are half as many registers, too, so fewer sums are kept in them.
#ifdef __AVX512F__
constexpr int LANES = 16, MOST_OUT = 6, MOST_GRADS = 4, INPUTS = 2;
#else
constexpr int LANES = 8, MOST_OUT = 3, MOST_GRADS = 4, INPUTS = 1;
#endif
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef float Lane __attribute__((may_alias));

// Loads a value once, not for each product that it is part of.
#ifdef __AVX__
#define IN_REGISTER(value) asm("" : "+v"(value))
#else
#define IN_REGISTER(value)
#endif

Lanes positive(const Lanes& sign, const Lanes& value) { return sign > 0 ? value : Lanes{}; }  // the value, or 0

float over_lanes(const Lanes& x) {
    float total = 0;
    for (int lane = 0; lane < LANES; ++lane) total += x[lane];
    return total;
}

struct Buffer {  // zeroed, aligned for whole-register access
    Lanes* data = nullptr;
    void resize(long count) {
        free(data);
        const long page = 1 << 21, bytes = (sizeof(Lanes) * count + page - 1) / page * page;
        data = static_cast<Lanes*>(aligned_alloc(page, bytes));
        madvise(data, bytes, MADV_HUGEPAGE);  // fewer misses of the address cache
        memset(static_cast<void*>(data), 0, sizeof(Lanes) * count);
    }
    ~Buffer() { free(data); }
    Buffer() = default;
    Buffer(Buffer&& other) noexcept { *this = std::move(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data, other.data);
        return *this;
    }
};

// A sum over kernel positions ("taps"): where each one reads, and which of the weight's positions it multiplies with.
struct Taps {
    int count = 0;
    long offset[9];
    int weight[9];
    void add(long where, int which) { offset[count] = where, weight[count++] = which; }
};

struct Weight {  // of a convolution, read either as [tap][in][out] or, for the gradient of its input, as [tap][out][in]
    const float* data;
    long tap, in, out;
};

// XB neighbouring pixels times CB output channels, accumulated in registers.
template <int XB, int CB>
void tile(const Lanes* in, long step, int channels, Lanes* out, long out_step, const Weight& w, const Taps& taps, bool add, Lanes* sums) {
    Lanes acc[XB][CB];
    for (int i = 0; i < XB; ++i)
        for (int j = 0; j < CB; ++j) acc[i][j] = add ? out[i * out_step + j] : Lanes{};
    for (int t = 0; t < taps.count; ++t) {
        const Lanes* x = in + taps.offset[t];
        const float* v = w.data + taps.weight[t] * w.tap;
        for (int c = 0; c < channels; ++c, v += w.in) {
            Lanes weight[CB];
            for (int j = 0; j < CB; ++j) weight[j] = Lanes{} + v[j * w.out];
#pragma GCC unroll 4
            for (int i = 0; i < XB; ++i) {
                Lanes value = x[i * step + c];
                IN_REGISTER(value);
#pragma GCC unroll 6
                for (int j = 0; j < CB; ++j) acc[i][j] += value * weight[j];
            }
        }
    }
    for (int i = 0; i < XB; ++i)
        for (int j = 0; j < CB; ++j) out[i * out_step + j] = acc[i][j];
    if (sums)  // of values and of squares, for BatchNorm
        for (int j = 0; j < CB; ++j)
            for (int i = 0; i < XB; ++i) sums[2 * j] += acc[i][j], sums[2 * j + 1] += acc[i][j] * acc[i][j];
}

template <int XB>
void tile_of(int cb, const Lanes* in, long step, int channels, Lanes* out, long out_step, const Weight& w, const Taps& taps, bool add,
             Lanes* sums) {
    switch (cb) {
        case 1: return tile<XB, 1>(in, step, channels, out, out_step, w, taps, add, sums);
        case 2: return tile<XB, 2>(in, step, channels, out, out_step, w, taps, add, sums);
        case 3: return tile<XB, 3>(in, step, channels, out, out_step, w, taps, add, sums);
#ifdef __AVX512F__
        case 4: return tile<XB, 4>(in, step, channels, out, out_step, w, taps, add, sums);
        case 5: return tile<XB, 5>(in, step, channels, out, out_step, w, taps, add, sums);
        case 6: return tile<XB, 6>(in, step, channels, out, out_step, w, taps, add, sums);
#endif
    }
}

// One image. Output pixel (y, x) of rows x columns lies at out + y * out_row + x * out_step; its taps read around
// in + y * in_row + x * in_step.
struct Grid {
    int rows, columns;
    long in_row, in_step, out_row, out_step;
};

void convolve(const Lanes* in, int c_in, Lanes* out, int c_out, const Grid& grid, const Weight& w, const Taps& taps, bool add,
              Lanes* sums) {
    const int blocks = (c_out + MOST_OUT - 1) / MOST_OUT;
    const int xb = grid.columns % 4 == 0 ? 4 : grid.columns % 2 == 0 ? 2 : 1;
    const auto run = xb == 4 ? tile_of<4> : xb == 2 ? tile_of<2> : tile_of<1>;
    for (int y = 0; y < grid.rows; ++y)
        for (int x = 0; x < grid.columns; x += xb)  // the first cache holds all weights, and the pixels of a tile
            for (int block = 0; block < blocks; ++block) {
                const int first = block * c_out / blocks, count = (block + 1) * c_out / blocks - first;
                const Weight part{w.data + first * w.out, w.tap, w.in, w.out};
                Lanes* to = out + y * grid.out_row + x * grid.out_step + first;
                run(count, in + y * grid.in_row + x * grid.in_step, grid.in_step, c_in, to, grid.out_step, part, taps, add,
                    sums ? sums + 2 * first : nullptr);
            }
}

// Gradient of K neighbouring kernel columns, CI input and CO output channels over some rows of an image.
template <int K, int CI, int CO>
void weight_tile(const Lanes* x, long x_row, long x_step, long x_column, const Lanes* g, long g_row, long g_step, int rows, int columns,
                 Lanes* gw, long tap, long in) {
    Lanes acc[K][CI][CO];
    for (int k = 0; k < K; ++k)
        for (int i = 0; i < CI; ++i)
            for (int o = 0; o < CO; ++o) acc[k][i][o] = gw[k * tap + i * in + o];
    for (int row = 0; row < rows; ++row, x += x_row, g += g_row)
        for (int column = 0; column < columns; ++column) {
            const Lanes *xs = x + column * x_step, *gs = g + column * g_step;
            Lanes values[K][CI];
            for (int k = 0; k < K; ++k)
                for (int i = 0; i < CI; ++i) values[k][i] = xs[k * x_column + i];
#pragma GCC unroll 4
            for (int o = 0; o < CO; ++o) {
                Lanes grad = gs[o];
                IN_REGISTER(grad);
#pragma GCC unroll 3
                for (int k = 0; k < K; ++k)
#pragma GCC unroll 2
                    for (int i = 0; i < CI; ++i) acc[k][i][o] += values[k][i] * grad;
            }
        }
    for (int k = 0; k < K; ++k)
        for (int i = 0; i < CI; ++i)
            for (int o = 0; o < CO; ++o) gw[k * tap + i * in + o] = acc[k][i][o];
}

template <int K, int CI>
constexpr auto weight_tile_of(int co) {
    return co == 1 ? weight_tile<K, CI, 1> : co == 2 ? weight_tile<K, CI, 2> : co == 3 ? weight_tile<K, CI, 3> : weight_tile<K, CI, MOST_GRADS>;
}

// A convolution with its BatchNorm. Sides are even where the stride is 2.
struct Conv {
    int c_in = 0, c_out = 0, kernel = 0, stride = 0, side_in = 0, side = 0;
    long weight = 0, affine = 0, running = 0;  // places in the parameters and the running statistics
    Buffer z;                                  // the convolution's output, before BatchNorm
    std::vector<Lanes> sums;
    std::vector<float> mean, inverse, scale, shift;

    long in_row() const { return long(side_in + 2) * c_in; }
    long in_image() const { return in_row() * (side_in + 2); }
    long out_image() const { return long(side) * side * c_out; }
    long padded_row() const { return long(side + 2) * c_out; }
    long padded_image() const { return padded_row() * (side + 2); }
    int border() const { return kernel == 1 ? 1 : 0; }  // a 1x1 kernel reads behind the border
    long weights() const { return long(kernel) * kernel * c_in * c_out; }

    // Input channels are ``in`` numbers apart, output channels ``out``.
    Weight weight_of(const float* params, long in, long out) const { return {params + weight, long(c_in) * c_out, in, out}; }

    void forward(const Lanes* x, int images, const float* params) {
        Taps taps;
        for (int ky = 0; ky < kernel; ++ky) taps.add((ky + border()) * in_row() + border() * c_in, ky * kernel);
        const Grid grid{side, side, stride * in_row(), long(stride) * c_in, long(side) * c_out, c_out};
        const Weight w = weight_of(params, c_out, 1);
        std::vector<Lanes> image(2 * c_out);
        sums.assign(2 * c_out, Lanes{});
        for (int n = 0; n < images; ++n) {
            std::fill(image.begin(), image.end(), Lanes{});
            convolve(x + n * in_image(), kernel * c_in, z.data + n * out_image(), c_out, grid, w, taps, false, image.data());
            for (int c = 0; c < 2 * c_out; ++c) sums[c] += image[c];
        }
    }

    // z * scale + shift is BatchNorm's output, with the batch's statistics (which then join the running ones) or the running ones.
    void normalise(const float* params, float* statistics, int images, bool training, float keep) {
        const float count = float(images) * LANES * side * side;
        const float *gamma = params + affine, *beta = gamma + c_out;
        float *running_mean = statistics + running, *running_variance = running_mean + c_out;
        for (int c = 0; c < c_out; ++c) {
            float variance = running_variance[c];
            mean[c] = running_mean[c];
            if (training) {
                mean[c] = over_lanes(sums[2 * c]) / count;
                variance = std::max(over_lanes(sums[2 * c + 1]) / count - mean[c] * mean[c], 0.f);
                running_mean[c] = running_mean[c] * keep + mean[c] * (1 - keep);
                running_variance[c] = running_variance[c] * keep + variance * (1 - keep);
            }
            inverse[c] = 1 / std::sqrt(variance + 1e-5f);
            scale[c] = gamma[c] * inverse[c];
            shift[c] = beta[c] - mean[c] * scale[c];
        }
    }

    // From the gradient of the ReLU's output (no border), which becomes that of BatchNorm's output, to that of z (with border), and
    // the gradients of weight and bias. Without a ReLU, out is null.
    void backward_norm(Lanes* g, const Lanes* out, Lanes* gz, int images, float* grads) {
        const float count = float(images) * LANES * side * side;
        std::vector<Lanes> sum(c_out), dot(c_out);
        for (int n = 0; n < images; ++n)
            for (int y = 0; y < side; ++y) {
                Lanes* rows = g + (long(n) * side + y) * side * c_out;
                const Lanes* zs = z.data + (long(n) * side + y) * side * c_out;
                const Lanes* outs = out ? out + n * padded_image() + (y + 1) * padded_row() + c_out : nullptr;
                for (int c = 0; c < c_out; ++c) {
                    Lanes row_sum{}, row_dot{};
                    for (int x = 0; x < side; ++x) {
                        Lanes value = rows[x * c_out + c];
                        if (out) rows[x * c_out + c] = value = positive(outs[x * c_out + c], value);
                        row_sum += value;
                        row_dot += value * (zs[x * c_out + c] - mean[c]);
                    }
                    sum[c] += row_sum;
                    dot[c] += row_dot * inverse[c];
                }
            }
        std::vector<float> a(c_out), b(c_out), d(c_out);  // gz = a * g + b * z + d
        for (int c = 0; c < c_out; ++c) {
            grads[affine + c] = over_lanes(dot[c]);
            grads[affine + c_out + c] = over_lanes(sum[c]);
            a[c] = scale[c];
            b[c] = -scale[c] * inverse[c] * grads[affine + c] / count;
            d[c] = -scale[c] * grads[affine + c_out + c] / count - b[c] * mean[c];
        }
        const long row = padded_row();
        long p = 0;
        for (int n = 0; n < images; ++n) {
            Lanes* to = gz + n * padded_image();
            std::fill(to, to + row + c_out, Lanes{});  // the upper border and the first row's left one
            to += row + c_out;
            for (int y = 0; y < side; ++y, to += 2 * c_out) {
                for (int x = 0; x < side; ++x, ++p, to += c_out)
                    for (int c = 0; c < c_out; ++c) to[c] = a[c] * g[p * c_out + c] + b[c] * z.data[p * c_out + c] + d[c];
                std::fill(to, to + 2 * c_out, Lanes{});
            }
            std::fill(to, to + row - c_out, Lanes{});
        }
    }

    // Gradient of the input (no border), set or added.
    void backward_input(const Lanes* gz, Lanes* gx, int images, const float* params, bool add) const {
        const Weight w = weight_of(params, 1, c_out);
        const long row = long(side_in) * c_in;
        for (int py = 0; py < stride; ++py)
            for (int px = 0; px < stride; ++px) {  // pixels of one parity see the same kernel positions
                Taps taps;
                for (int ky = 0; ky < kernel; ++ky)
                    for (int kx = 0; kx < kernel; ++kx) {
                        const int dy = py + kernel / 2 - ky, dx = px + kernel / 2 - kx;
                        if (dy % stride == 0 && dx % stride == 0)
                            taps.add((dy / stride + 1) * padded_row() + (dx / stride + 1) * c_out, ky * kernel + kx);
                    }
                if (taps.count == 0 && add) continue;
                const Grid grid{side, side, padded_row(), c_out, stride * row, long(stride) * c_in};
                for (int n = 0; n < images; ++n)
                    convolve(gz + n * padded_image(), c_out, gx + n * row * side_in + py * row + px * c_in, c_in, grid, w, taps, add,
                             nullptr);
            }
    }

    // Gradient of the weight; ``lanes`` [numbers of the weight] is working memory.
    void backward_weight(const Lanes* x, const Lanes* gz, int images, float* grads, Lanes* lanes) const {
        const int together = std::max(1, 32 / side), blocks = (c_out + MOST_GRADS - 1) / MOST_GRADS;  // rows of pixels that stay in the first cache
        const long tap = long(c_in) * c_out;
        std::fill(lanes, lanes + weights(), Lanes{});
        for (int n = 0; n < images; ++n)
            for (int y = 0; y < side; y += together) {
                const int rows = std::min(together, side - y);
                const Lanes* g = gz + n * padded_image() + (y + 1) * padded_row() + c_out;
                for (int ky = 0; ky < kernel; ++ky) {
                    const Lanes* from = x + n * in_image() + (y * stride + ky + border()) * in_row() + border() * c_in;
                    for (int i = 0; i < c_in; i += INPUTS)
                        for (int block = 0, first = 0; block < blocks; ++block) {
                            const int co = (c_out - first + blocks - block - 1) / (blocks - block);
                            const bool all = i + INPUTS <= c_in;
                            const auto run = kernel == 3 ? (all ? weight_tile_of<3, INPUTS>(co) : weight_tile_of<3, 1>(co))
                                                         : (all ? weight_tile_of<1, INPUTS>(co) : weight_tile_of<1, 1>(co));
                            run(from + i, stride * in_row(), long(stride) * c_in, c_in, g + first, padded_row(), c_out, rows, side,
                                lanes + ky * kernel * tap + i * c_out + first, tap, c_out);
                            first += co;
                        }
                }
            }
        for (long i = 0; i < weights(); ++i) grads[weight + i] = over_lanes(lanes[i]);
    }

    void allocate(int images) {
        z.resize(images * out_image());
        for (auto* one : {&mean, &inverse, &scale, &shift}) one->resize(c_out);
    }
};

struct Block {
    Conv first, second, shortcut;
    bool has_shortcut = false;
    Buffer inside, out;  // behind the two ReLUs, with border
};

struct Net {
    int batch, classes, width, side;
    std::vector<Block> blocks;
    Conv stem;
    Buffer images, stem_out;
    Buffer gz, grad, grad_inside, grad_larger;  // gradients: of a convolution's output, and three of features
    Buffer lanes;                               // the gradient of a weight
    std::vector<float> params, grads, momenta, statistics;
    std::vector<Lanes> pooled, logits;
    long fc = 0;
};

// relu(BatchNorm(z) + what the shortcut brings), into a buffer with border.
void activate(const Conv& conv, Lanes* out, int images, const Lanes* identity, const Conv* shortcut) {
    const int side = conv.side, channels = conv.c_out;
    const Lanes* z = conv.z.data;
    const Lanes* other = shortcut ? shortcut->z.data : nullptr;
    for (int n = 0; n < images; ++n)
        for (int y = 0; y < side; ++y) {
            const long place = n * conv.padded_image() + (y + 1) * conv.padded_row() + channels;
            for (int x = 0; x < side; ++x)
                for (int c = 0; c < channels; ++c, ++z) {
                    Lanes value = *z * conv.scale[c] + conv.shift[c];
                    if (identity) value += identity[place + x * channels + c];
                    if (shortcut) value += *other++ * shortcut->scale[c] + shortcut->shift[c];
                    out[place + x * channels + c] = positive(value, value);
                }
        }
}

void forward(Net& net, int images, bool training, float keep) {
    const auto normalise = [&](Conv& conv) { conv.normalise(net.params.data(), net.statistics.data(), images, training, keep); };
    const float* params = net.params.data();
    net.stem.forward(net.images.data, images, params);
    normalise(net.stem);
    activate(net.stem, net.stem_out.data, images, nullptr, nullptr);
    const Lanes* x = net.stem_out.data;
    for (Block& block : net.blocks) {
        block.first.forward(x, images, params);
        normalise(block.first);
        activate(block.first, block.inside.data, images, nullptr, nullptr);
        block.second.forward(block.inside.data, images, params);
        normalise(block.second);
        if (block.has_shortcut) {
            block.shortcut.forward(x, images, params);
            normalise(block.shortcut);
        }
        activate(block.second, block.out.data, images, block.has_shortcut ? nullptr : x, block.has_shortcut ? &block.shortcut : nullptr);
        x = block.out.data;
    }
    const float *weight = params + net.fc, *bias = weight + long(net.width) * net.classes;
    const long row = long(net.side + 2) * net.width;
    for (int n = 0; n < images; ++n) {
        Lanes* mean = &net.pooled[n * net.width];
        for (int c = 0; c < net.width; ++c) mean[c] = Lanes{};
        for (int y = 0; y < net.side; ++y)
            for (int p = 0; p < net.side; ++p)
                for (int c = 0; c < net.width; ++c) mean[c] += x[(n * (net.side + 2) + y + 1) * row + (p + 1) * net.width + c];
        for (int c = 0; c < net.width; ++c) mean[c] /= float(net.side * net.side);
        for (int k = 0; k < net.classes; ++k) {
            Lanes value = Lanes{} + bias[k];
            for (int c = 0; c < net.width; ++c) value += mean[c] * weight[c * net.classes + k];
            net.logits[n * net.classes + k] = value;
        }
    }
}

// Turns the logits into the gradient of the batch's mean cross-entropy with smoothed labels; adds losses (without smoothing) and right
// answers of all images. A label of -1 is no image.
void cross_entropy(Net& net, int images, const int64_t* labels, float smoothing, double* loss, int64_t* right) {
    std::vector<Lanes> exps(net.classes);
    const float other = smoothing / net.classes, own = 1 - smoothing + other;
    for (int n = 0; n < images; ++n) {
        Lanes* logits = &net.logits[n * net.classes];
        for (int lane = 0; lane < LANES; ++lane) {
            const int label = int(labels[lane * images + n]);
            int best = 0;
            for (int k = 1; k < net.classes; ++k)
                if (logits[k][lane] > logits[best][lane]) best = k;
            float total = 0;
            const float highest = logits[best][lane];
            for (int k = 0; k < net.classes; ++k) total += exps[k][lane] = std::exp(logits[k][lane] - highest);
            if (label < 0) continue;
            *loss += std::log(total) + highest - logits[label][lane];
            *right += best == label;
            for (int k = 0; k < net.classes; ++k)
                logits[k][lane] = (exps[k][lane] / total - (label == k ? own : other)) / (images * LANES);
        }
    }
}

void backward(Net& net, int images) {
    float *params = net.params.data(), *grads = net.grads.data();
    Lanes* g = net.grad.data;
    const float* fc = params + net.fc;
    std::vector<Lanes> g_fc(long(net.width) * net.classes), g_bias(net.classes);
    const int area = net.side * net.side;
    for (int n = 0; n < images; ++n) {
        const Lanes *g_logits = &net.logits[n * net.classes], *mean = &net.pooled[n * net.width];
        for (int k = 0; k < net.classes; ++k) g_bias[k] += g_logits[k];
        for (int c = 0; c < net.width; ++c) {
            Lanes value{};
            for (int k = 0; k < net.classes; ++k) {
                g_fc[c * net.classes + k] += mean[c] * g_logits[k];
                value += fc[c * net.classes + k] * g_logits[k];
            }
            value /= float(area);
            for (int p = 0; p < area; ++p) g[(long(n) * area + p) * net.width + c] = value;
        }
    }
    for (size_t i = 0; i < g_fc.size(); ++i) grads[net.fc + i] = over_lanes(g_fc[i]);
    for (int k = 0; k < net.classes; ++k) grads[net.fc + g_fc.size() + k] = over_lanes(g_bias[k]);
    // Sets (or adds to) the gradient gx of the input x from that of the output, which a ReLU may have left (then its values).
    const auto through = [&](Conv& conv, const Lanes* x, Lanes* g_out, const Lanes* out, Lanes* gx, bool add) {
        conv.backward_norm(g_out, out, net.gz.data, images, grads);
        conv.backward_weight(x, net.gz.data, images, grads, net.lanes.data);
        if (gx) conv.backward_input(net.gz.data, gx, images, params, add);
    };
    for (int index = int(net.blocks.size()) - 1; index >= 0; --index) {
        Block& block = net.blocks[index];
        const Lanes* x = index ? net.blocks[index - 1].out.data : net.stem_out.data;
        through(block.second, block.inside.data, net.grad.data, block.out.data, net.grad_inside.data, false);
        if (block.has_shortcut) {
            through(block.first, x, net.grad_inside.data, block.inside.data, net.grad_larger.data, false);
            through(block.shortcut, x, net.grad.data, nullptr, net.grad_larger.data, true);
            std::swap(net.grad_larger.data, net.grad.data);
        } else  // added to the identity's part
            through(block.first, x, net.grad_inside.data, block.inside.data, net.grad.data, true);
    }
    through(net.stem, net.images.data, net.grad.data, net.stem_out.data, nullptr, false);
}

}  // namespace

extern "C" {

// Images that are computed side by side.
int lanes_count() { return LANES; }

// spec: side of the images, a lane's images of a batch, classes, stem width, number of blocks, then (c_in, c_mid, c_out, stride)
// of each block.
Net* lanes_create(const int32_t* spec) {
    Net* net = new Net;
    int side = spec[0], blocks = spec[4];
    net->batch = spec[1], net->classes = spec[2], net->width = spec[3];
    long parameters = 0, statistics = 0, features = 0, padded = 0, largest = 0;
    const auto conv = [&](int c_in, int c_out, int kernel, int stride, int side_in) {
        Conv made;
        made.c_in = c_in, made.c_out = c_out, made.kernel = kernel, made.stride = stride;
        made.side_in = side_in, made.side = side_in / stride;
        made.weight = parameters, made.affine = parameters + made.weights(), made.running = statistics;
        parameters += made.weights() + 2 * c_out, statistics += 2 * c_out;
        made.allocate(net->batch);
        features = std::max({features, made.out_image(), long(side_in) * side_in * c_in});
        padded = std::max(padded, made.padded_image());
        largest = std::max(largest, made.weights());
        return made;
    };
    net->stem = conv(3, net->width, 3, 1, side);
    net->images.resize(net->batch * net->stem.in_image());
    net->stem_out.resize(net->batch * net->stem.padded_image());
    for (int i = 0; i < blocks; ++i) {
        const int32_t* shape = spec + 5 + 4 * i;
        Block block;
        block.has_shortcut = shape[3] > 1;
        block.first = conv(shape[0], shape[1], 3, shape[3], side);
        const int side_in = side;
        side /= shape[3];
        block.second = conv(shape[1], shape[2], 3, 1, side);
        if (block.has_shortcut) block.shortcut = conv(shape[0], shape[2], 1, shape[3], side_in);
        block.inside.resize(net->batch * block.first.padded_image());
        block.out.resize(net->batch * block.second.padded_image());
        net->width = shape[2];
        net->blocks.push_back(std::move(block));
    }
    net->side = side, net->fc = parameters;
    parameters += long(net->width) * net->classes + net->classes;
    for (auto* one : {&net->params, &net->grads, &net->momenta}) one->resize(parameters);
    net->lanes.resize(largest);
    net->statistics.resize(statistics);
    net->gz.resize(net->batch * padded);
    for (Buffer* one : {&net->grad, &net->grad_inside, &net->grad_larger}) one->resize(net->batch * features);
    net->pooled.resize(long(net->batch) * net->width);
    net->logits.resize(long(net->batch) * net->classes);
    return net;
}

void lanes_destroy(Net* net) { delete net; }

// Places of the parameters, gradients and running statistics and their counts.
float* lanes_array(Net* net, int which, int64_t* count) {
    auto& one = which == 0 ? net->params : which == 1 ? net->grads : net->statistics;
    *count = one.size();
    return one.data();
}

// Puts images into the network's input. chosen, tops, lefts, flips: [lanes][images]; the images are
// uint8 [all][side + 2 pad][side + 2 pad][3].
void lanes_images(Net* net, const uint8_t* all, int pad, int images, const int64_t* chosen, const int64_t* tops, const int64_t* lefts,
                  const int64_t* flips, const float* scale, const float* shift) {
    const int side = net->stem.side_in, wide = side + 2 * pad;
    for (int lane = 0; lane < LANES; ++lane)
        for (int n = 0; n < images; ++n) {
            const long which = lane * long(images) + n;
            const uint8_t* image = all + chosen[which] * wide * wide * 3;
            for (int y = 0; y < side; ++y) {
                Lane* to = reinterpret_cast<Lane*>(net->images.data + n * net->stem.in_image() + (y + 1) * net->stem.in_row() + 3) + lane;
                for (int x = 0; x < side; ++x) {
                    const long column = lefts[which] + (flips[which] ? side - 1 - x : x);
                    const uint8_t* pixel = image + ((y + tops[which]) * wide + column) * 3;
                    for (int c = 0; c < 3; ++c, to += LANES) *to = pixel[c] * scale[c] + shift[c];
                }
            }
        }
}

// One step of SGD with momentum and weight decay on every parameter, on the images put in before. images: the number in each lane.
// labels: [lanes][images]. Adds the images' losses and right answers.
void lanes_step(Net* net, int images, const int64_t* labels, float rate, float momentum, float decay, float keep, float smoothing, double* loss,
                int64_t* right) {
    forward(*net, images, true, keep);
    cross_entropy(*net, images, labels, smoothing, loss, right);
    backward(*net, images);
    for (size_t i = 0; i < net->params.size(); ++i) {
        net->momenta[i] = net->momenta[i] * momentum + net->grads[i] + net->params[i] * decay;
        net->params[i] -= net->momenta[i] * rate;
    }
}

// Evaluation with running statistics on the images put in before. labels: [lanes][images], -1 where there is no image.
void lanes_evaluate(Net* net, int images, const int64_t* labels, double* loss, int64_t* right) {
    forward(*net, images, false, 0);
    cross_entropy(*net, images, labels, 0, loss, right);
}
}
