// lanes.cpp for a GPU: the same networks, recipe and layout of memory, with whole trainings in one call.
//
// Every operation is a function of a unit (an image, a pixel, a channel, ...) and a lane (one of the 16 copies). nvcc makes a
// kernel of each; a plain C++ compiler (g++ -x c++) makes a loop, so that all of it can be tested without a GPU. One training
// step is recorded as a CUDA graph and replayed. Small networks do not fill a GPU, so many are trained at a time, each in a
// stream of its own and started by a thread of its own.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#ifdef __CUDACC__
#include <cstdio>
#define HD __device__
#else
#define HD
typedef int cudaStream_t;
#endif

constexpr int LANES = 16, UNITS = 16;  // a block of threads has 16 units of 16 lanes
constexpr int TILE_CHANNELS = 6;       // at most so many output channels are accumulated in registers
constexpr int SUM_PIXELS = 64;         // sums over pixels are made of partial sums over so many

#ifdef __CUDACC__
inline void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
    exit(1);
}

template <typename Unit>
__global__ void run(int units, Unit unit) {
    const int number = blockIdx.x * UNITS + threadIdx.y;
    if (number < units) unit(number, threadIdx.x);
}

template <typename Unit>
void each(cudaStream_t stream, int units, Unit unit) {
    run<<<(units + UNITS - 1) / UNITS, dim3(LANES, UNITS), 0, stream>>>(units, unit);
    check(cudaGetLastError(), "a kernel");
}

inline void* reserve(size_t bytes, cudaStream_t stream) {
    void* data;
    check(cudaMallocAsync(&data, bytes, stream), "memory");
    check(cudaMemsetAsync(data, 0, bytes, stream), "memory");
    return data;
}
inline void release(void* data, cudaStream_t stream) { check(cudaFreeAsync(data, stream), "memory"); }
inline void copy(void* to, const void* from, size_t bytes, cudaStream_t stream) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "a copy");
    check(cudaStreamSynchronize(stream), "a copy");
}
#else
template <typename Unit>
void each(cudaStream_t, int units, Unit unit) {
    for (int number = 0; number < units; ++number)
        for (int lane = 0; lane < LANES; ++lane) unit(number, lane);
}
inline void* reserve(size_t bytes, cudaStream_t) { return calloc(bytes, 1); }
inline void release(void* data, cudaStream_t) { free(data); }
inline void copy(void* to, const void* from, size_t bytes, cudaStream_t) { memcpy(to, from, bytes); }
#endif

// Features [image][row][column][channel][lane]; "padded" ones have a border of one zero pixel. A pointer's index counts floats.
struct Conv {
    int c_in, c_out, kernel, stride, side_in, side;
    int weight, affine, running;  // places in parameters and running statistics, in units of a lane vector
    float *z, *mean, *inverse, *scale, *shift;

    int in_row() const { return (side_in + 2) * c_in; }
    int in_image() const { return in_row() * (side_in + 2); }
    int padded_row() const { return (side + 2) * c_out; }
    int padded_image() const { return padded_row() * (side + 2); }
    int out_image() const { return side * side * c_out; }
    int border() const { return kernel == 1 ? 1 : 0; }  // a 1x1 kernel reads behind the border
    int weights() const { return kernel * kernel * c_in * c_out; }
};

struct Block {
    Conv first, second, shortcut;
    bool has_shortcut;
    float *inside, *out;  // behind the two ReLUs, padded
};

struct Images {  // all training images or all validation images, shared by the networks
    const uint8_t* pixels;
    const int32_t* labels;
    int wide;
    float scale[3], shift[3];
};

struct Plan {  // which images every lane sees in every step
    const int32_t* chosen;  // [steps][16][batch]
    const uint8_t* moves;   // [steps][16][batch][3]: top, left, flip; null for none
    const float* rates;     // [steps]
    int lanes;              // 16, or 1 if all lanes see the same images
};

struct Net {
    cudaStream_t stream;
    int batch, classes, width, side, parameters, statistics_count, fc;
    std::vector<Block> blocks;
    Conv stem;
    float *images, *stem_out, *params, *grads, *momenta, *statistics;
    float *gz, *grad, *grad_inside, *grad_larger, *partial, *pooled, *logits, *image_loss;
    float *a, *b, *d;
    int32_t *labels, *image_right, *step;  // labels [batch][lane]
    double* loss;    // of each lane, summed
    int32_t* right;  // answers of each lane, summed
    std::vector<std::pair<float**, size_t>> wanted;
    void* arena;
};

// A sum over kernel positions: where each one reads, and which of the weight's positions it multiplies with.
struct Taps {
    int count = 0, offset[9], weight[9];
    void add(int where, int which) { offset[count] = where, weight[count++] = which; }
};

struct Grid {  // output pixel (y, x) lies at out + y * out_row + x * out_step, its taps around in + y * in_row + x * in_step
    int images, rows, columns, in_image, in_row, in_step, out_image, out_row, out_step;
};

struct Weight {  // read as [tap][in][out], or for the gradient of the input as [tap][out][in]
    const float* data;
    int tap, in, out;
};

template <int XB, int CB>
void tiles(cudaStream_t stream, const float* in, int c_in, float* out, int c_out, Grid grid, Weight w, Taps taps, bool add) {
    const int parts = (c_out + CB - 1) / CB, across = grid.columns / XB;
    each(stream, grid.images * parts * grid.rows * across, [=] HD(int unit, int lane) {
        const int x = unit % across * XB, y = unit / across % grid.rows, part = unit / across / grid.rows % parts;
        const int image = unit / across / grid.rows / parts, first = part * CB;
        const float* from = in + (image * grid.in_image + y * grid.in_row + x * grid.in_step) * LANES + lane;
        float* to = out + (image * grid.out_image + y * grid.out_row + x * grid.out_step + first) * LANES + lane;
        float acc[XB][CB];
        int channel[CB];  // the last part's missing channels repeat its last one
#pragma unroll
        for (int j = 0; j < CB; ++j) channel[j] = first + j < c_out ? j : c_out - 1 - first;
#pragma unroll
        for (int i = 0; i < XB; ++i)
#pragma unroll
            for (int j = 0; j < CB; ++j) acc[i][j] = add ? to[(i * grid.out_step + channel[j]) * LANES] : 0;
        for (int t = 0; t < taps.count; ++t) {
            const float* xs = from + taps.offset[t] * LANES;
            const float* ws = w.data + (taps.weight[t] * w.tap + first * w.out) * LANES + lane;
#pragma unroll 2
            for (int c = 0; c < c_in; ++c, ws += w.in * LANES, xs += LANES) {
                float weight[CB];
#pragma unroll
                for (int j = 0; j < CB; ++j) weight[j] = ws[channel[j] * w.out * LANES];
#pragma unroll
                for (int i = 0; i < XB; ++i) {
                    const float value = xs[i * grid.in_step * LANES];
#pragma unroll
                    for (int j = 0; j < CB; ++j) acc[i][j] += value * weight[j];
                }
            }
        }
#pragma unroll
        for (int i = 0; i < XB; ++i)
#pragma unroll
            for (int j = 0; j < CB; ++j)
                if (first + j < c_out) to[(i * grid.out_step + j) * LANES] = acc[i][j];
    });
}

template <int XB>
void tiles_of(int channels, cudaStream_t s, const float* in, int c_in, float* out, int c_out, const Grid& g, Weight w, const Taps& t, bool add) {
    switch (channels) {
        case 1: return tiles<XB, 1>(s, in, c_in, out, c_out, g, w, t, add);
        case 2: return tiles<XB, 2>(s, in, c_in, out, c_out, g, w, t, add);
        case 3: return tiles<XB, 3>(s, in, c_in, out, c_out, g, w, t, add);
        case 4: return tiles<XB, 4>(s, in, c_in, out, c_out, g, w, t, add);
        case 5: return tiles<XB, 5>(s, in, c_in, out, c_out, g, w, t, add);
        default: return tiles<XB, TILE_CHANNELS>(s, in, c_in, out, c_out, g, w, t, add);
    }
}

inline void convolve(cudaStream_t stream, const float* in, int c_in, float* out, int c_out, const Grid& grid, Weight w, const Taps& taps, bool add) {
    const int parts = (c_out + TILE_CHANNELS - 1) / TILE_CHANNELS, channels = (c_out + parts - 1) / parts;
    const auto run = grid.columns % 4 == 0 ? tiles_of<4> : grid.columns % 2 == 0 ? tiles_of<2> : tiles_of<1>;
    run(channels, stream, in, c_in, out, c_out, grid, w, taps, add);
}

inline void conv_forward(Net& net, const Conv& conv, const float* x, int images) {
    Taps taps;
    for (int ky = 0; ky < conv.kernel; ++ky)
        for (int kx = 0; kx < conv.kernel; ++kx)
            taps.add((ky + conv.border()) * conv.in_row() + (kx + conv.border()) * conv.c_in, ky * conv.kernel + kx);
    const Grid grid{images, conv.side, conv.side, conv.in_image(), conv.stride * conv.in_row(), conv.stride * conv.c_in,
                    conv.out_image(), conv.side * conv.c_out, conv.c_out};
    const Weight w{net.params + conv.weight * LANES, conv.c_in * conv.c_out, conv.c_out, 1};
    convolve(net.stream, x, conv.c_in, conv.z, conv.c_out, grid, w, taps, false);
}

// Scale and shift that make BatchNorm's output of z: from the batch's statistics, which then join the running ones.
inline void normalise(Net& net, const Conv& conv, int images, float keep) {
    const int c_out = conv.c_out, side = conv.side, rows = images * side;
    const int together = side < SUM_PIXELS ? SUM_PIXELS / side : 1, parts = (rows + together - 1) / together;
    const float* z = conv.z;
    float* partial = net.partial;
    each(net.stream, parts * c_out, [=] HD(int unit, int lane) {
        const int part = unit / c_out, c = unit % c_out, last = (part + 1) * together < rows ? (part + 1) * together : rows;
        float sum = 0, squares = 0;
#pragma unroll 8
        for (int p = part * together * side; p < last * side; ++p) {
            const float value = z[(p * c_out + c) * LANES + lane];
            sum += value, squares += value * value;
        }
        partial[(2 * unit) * LANES + lane] = sum, partial[(2 * unit + 1) * LANES + lane] = squares;
    });
    const float* gamma = net.params + conv.affine * LANES;
    float *running = net.statistics + conv.running * LANES, *mean = conv.mean, *inverse = conv.inverse, *scale = conv.scale, *shift = conv.shift;
    each(net.stream, c_out, [=] HD(int c, int lane) {
        float sum = 0, squares = 0;
#pragma unroll 8
        for (int part = 0; part < parts; ++part) {
            sum += partial[2 * (part * c_out + c) * LANES + lane];
            squares += partial[(2 * (part * c_out + c) + 1) * LANES + lane];
        }
        const int at = c * LANES + lane, behind = at + c_out * LANES;
        const float average = sum / (rows * side);
        float variance = squares / (rows * side) - average * average;
        variance = variance > 0 ? variance : 0;
        running[at] = running[at] * keep + average * (1 - keep);
        running[behind] = running[behind] * keep + variance * (1 - keep);
        mean[at] = average;
        inverse[at] = 1 / sqrtf(variance + 1e-5f);
        scale[at] = gamma[at] * inverse[at];
        shift[at] = gamma[behind] - average * scale[at];
    });
}

// The same from the running statistics.
inline void normalise_running(Net& net, const Conv& conv) {
    const int c_out = conv.c_out;
    const float *gamma = net.params + conv.affine * LANES, *running = net.statistics + conv.running * LANES;
    float *scale = conv.scale, *shift = conv.shift;
    each(net.stream, c_out, [=] HD(int c, int lane) {
        const int at = c * LANES + lane, behind = at + c_out * LANES;
        scale[at] = gamma[at] / sqrtf(running[behind] + 1e-5f);
        shift[at] = gamma[behind] - running[at] * scale[at];
    });
}

// relu(BatchNorm(z) + what the shortcut brings), padded.
inline void activate(Net& net, const Conv& conv, float* out, int images, const float* identity, const Conv* shortcut) {
    const int side = conv.side, channels = conv.c_out, row = conv.padded_row(), image = conv.padded_image();
    const float *z = conv.z, *scale = conv.scale, *shift = conv.shift;
    const float *other = shortcut ? shortcut->z : nullptr, *other_scale = shortcut ? shortcut->scale : nullptr;
    const float* other_shift = shortcut ? shortcut->shift : nullptr;
    each(net.stream, images * side * side * channels, [=] HD(int unit, int lane) {
        const int c = unit % channels, x = unit / channels % side, y = unit / channels / side % side, n = unit / channels / side / side;
        const int to = (n * image + (y + 1) * row + (x + 1) * channels + c) * LANES + lane, at = unit * LANES + lane, of = c * LANES + lane;
        float value = z[at] * scale[of] + shift[of];
        if (identity) value += identity[to];
        if (other) value += other[at] * other_scale[of] + other_shift[of];
        out[to] = value > 0 ? value : 0;
    });
}

inline void forward(Net& net, int images, bool training, float keep) {
    const auto convolution = [&](const Conv& conv, const float* x) {
        conv_forward(net, conv, x, images);
        if (training) normalise(net, conv, images, keep);
        else normalise_running(net, conv);
    };
    convolution(net.stem, net.images);
    activate(net, net.stem, net.stem_out, images, nullptr, nullptr);
    const float* x = net.stem_out;
    for (const Block& block : net.blocks) {
        convolution(block.first, x);
        activate(net, block.first, block.inside, images, nullptr, nullptr);
        convolution(block.second, block.inside);
        if (block.has_shortcut) convolution(block.shortcut, x);
        activate(net, block.second, block.out, images, block.has_shortcut ? nullptr : x, block.has_shortcut ? &block.shortcut : nullptr);
        x = block.out;
    }
    const int width = net.width, side = net.side, classes = net.classes;
    float *pooled = net.pooled, *logits = net.logits;
    const float *weight = net.params + net.fc * LANES, *bias = weight + width * classes * LANES;
    each(net.stream, images * width, [=] HD(int unit, int lane) {
        const int n = unit / width, c = unit % width;
        float sum = 0;
        for (int y = 0; y < side; ++y)
            for (int p = 0; p < side; ++p) sum += x[((n * (side + 2) + y + 1) * (side + 2) * width + (p + 1) * width + c) * LANES + lane];
        pooled[unit * LANES + lane] = sum / (side * side);
    });
    each(net.stream, images * classes, [=] HD(int unit, int lane) {
        const int n = unit / classes, k = unit % classes;
        float value = bias[k * LANES + lane];
        for (int c = 0; c < width; ++c) value += pooled[(n * width + c) * LANES + lane] * weight[(c * classes + k) * LANES + lane];
        logits[unit * LANES + lane] = value;
    });
}

// Turns the logits into the gradient of the mean cross-entropy; adds losses and right answers per lane.
inline void cross_entropy(Net& net, int images, bool keep_sums) {
    const int classes = net.classes;
    float *logits = net.logits, *image_loss = net.image_loss;
    int32_t *image_right = net.image_right, *labels = net.labels, *right = net.right;
    double* loss = net.loss;
    each(net.stream, images, [=] HD(int n, int lane) {
        float* of = logits + n * classes * LANES + lane;
        const int label = labels[n * LANES + lane];
        int best = 0;
        float highest = of[0], total = 0;
        for (int k = 1; k < classes; ++k)
            if (of[k * LANES] > highest) highest = of[k * LANES], best = k;
        const float own = of[label * LANES];
        for (int k = 0; k < classes; ++k) {
            const float one = expf(of[k * LANES] - highest);
            of[k * LANES] = one, total += one;
        }
        image_loss[n * LANES + lane] = logf(total) + highest - own;
        image_right[n * LANES + lane] = best == label;
        for (int k = 0; k < classes; ++k) of[k * LANES] = (of[k * LANES] / total - (k == label ? 1 : 0)) / images;
    });
    each(net.stream, 1, [=] HD(int, int lane) {
        double sum = keep_sums ? loss[lane] : 0;
        int count = keep_sums ? right[lane] : 0;
        for (int n = 0; n < images; ++n) sum += image_loss[n * LANES + lane], count += image_right[n * LANES + lane];
        loss[lane] = sum, right[lane] = count;
    });
}

// From the gradient of the ReLU's output (not padded), which becomes that of BatchNorm's output, to that of z (net.gz, padded), and the
// gradients of BatchNorm's weight and bias. Without a ReLU, out is null.
inline void backward_norm(Net& net, const Conv& conv, float* g, const float* out, int images) {
    const int c_out = conv.c_out, side = conv.side, rows = images * side, row = conv.padded_row(), image = conv.padded_image();
    const int together = side < SUM_PIXELS ? SUM_PIXELS / side : 1, parts = (rows + together - 1) / together;
    const float *z = conv.z, *mean = conv.mean, *inverse = conv.inverse, *scale = conv.scale;
    float *partial = net.partial, *a = net.a, *b = net.b, *d = net.d, *gz = net.gz, *g_affine = net.grads + conv.affine * LANES;
    each(net.stream, parts * c_out, [=] HD(int unit, int lane) {
        const int part = unit / c_out, c = unit % c_out, last = (part + 1) * together < rows ? (part + 1) * together : rows;
        const float center = mean[c * LANES + lane];
        float sum = 0, dot = 0;
        for (int r = part * together; r < last; ++r) {
            const int n = r / side, y = r % side;
            const float* outs = out ? out + (n * image + (y + 1) * row + c_out + c) * LANES + lane : nullptr;
#pragma unroll 4
            for (int x = 0; x < side; ++x) {
                const int at = ((r * side + x) * c_out + c) * LANES + lane;
                float value = g[at];
                if (out) g[at] = value = outs[x * c_out * LANES] > 0 ? value : 0;
                sum += value, dot += value * (z[at] - center);
            }
        }
        partial[(2 * unit) * LANES + lane] = sum, partial[(2 * unit + 1) * LANES + lane] = dot;
    });
    each(net.stream, c_out, [=] HD(int c, int lane) {
        float sum = 0, dot = 0;
#pragma unroll 8
        for (int part = 0; part < parts; ++part) {
            sum += partial[2 * (part * c_out + c) * LANES + lane];
            dot += partial[(2 * (part * c_out + c) + 1) * LANES + lane];
        }
        const int at = c * LANES + lane;
        dot *= inverse[at];
        g_affine[at] = dot, g_affine[at + c_out * LANES] = sum;
        a[at] = scale[at];  // gz = a * g + b * z + d
        b[at] = -scale[at] * inverse[at] * dot / (rows * side);
        d[at] = -scale[at] * sum / (rows * side) - b[at] * mean[at];
    });
    each(net.stream, images * image, [=] HD(int unit, int lane) {
        const int c = unit % c_out, x = unit / c_out % (side + 2) - 1, y = unit / row % (side + 2) - 1, n = unit / image;
        const bool inside = x >= 0 && x < side && y >= 0 && y < side;
        const int at = (((n * side + y) * side + x) * c_out + c) * LANES + lane, of = c * LANES + lane;
        gz[unit * LANES + lane] = inside ? a[of] * g[at] + b[of] * z[at] + d[of] : 0;
    });
}

// Gradient of the input (not padded), set or added.
inline void backward_input(Net& net, const Conv& conv, float* gx, int images, bool add) {
    const Weight w{net.params + conv.weight * LANES, conv.c_in * conv.c_out, 1, conv.c_out};
    const int row = conv.side_in * conv.c_in, stride = conv.stride;
    for (int py = 0; py < stride; ++py)
        for (int px = 0; px < stride; ++px) {  // pixels of one parity see the same kernel positions
            Taps taps;
            for (int ky = 0; ky < conv.kernel; ++ky)
                for (int kx = 0; kx < conv.kernel; ++kx) {
                    const int dy = py + conv.kernel / 2 - ky, dx = px + conv.kernel / 2 - kx;
                    if (dy % stride == 0 && dx % stride == 0)
                        taps.add((dy / stride + 1) * conv.padded_row() + (dx / stride + 1) * conv.c_out, ky * conv.kernel + kx);
                }
            if (taps.count == 0 && add) continue;
            const Grid grid{images, conv.side, conv.side, conv.padded_image(), conv.padded_row(), conv.c_out,
                            row * conv.side_in, stride * row, stride * conv.c_in};
            convolve(net.stream, net.gz, conv.c_out, gx + (py * row + px * conv.c_in) * LANES, conv.c_in, grid, w, taps, add);
        }
}

// Gradient of the weight: of K neighbouring kernel columns, two input and four output channels at a time, first over some images each.
template <int K>
void backward_weight(Net& net, const Conv& conv, const float* x, int images) {
    constexpr int CI = 2, CO = 4;
    const int c_in = conv.c_in, c_out = conv.c_out, side = conv.side, kernel = conv.kernel, stride = conv.stride;
    const int ins = (c_in + CI - 1) / CI, outs = (c_out + CO - 1) / CO, border = conv.border(), tap = c_in * c_out;
    const int together = side < 16 ? 16 / side : 1, parts = (images + together - 1) / together, weights = conv.weights();
    const int in_image = conv.in_image(), in_row = conv.in_row(), out_image = conv.padded_image(), out_row = conv.padded_row();
    const float* gz = net.gz;
    float *partial = net.partial, *grads = net.grads + conv.weight * LANES;
    each(net.stream, parts * kernel * ins * outs, [=] HD(int unit, int lane) {
        const int first = unit % outs * CO, i = unit / outs % ins * CI, ky = unit / outs / ins % kernel, part = unit / outs / ins / kernel;
        const int last = (part + 1) * together < images ? (part + 1) * together : images;
        float acc[K][CI][CO] = {};
        int channel[CO], input[CI];  // missing ones repeat the last one
#pragma unroll
        for (int o = 0; o < CO; ++o) channel[o] = (first + o < c_out ? first + o : c_out - 1) * LANES;
#pragma unroll
        for (int j = 0; j < CI; ++j) input[j] = (i + j < c_in ? i + j : c_in - 1) * LANES;
        for (int n = part * together; n < last; ++n)
            for (int y = 0; y < side; ++y) {
                const float* xs = x + (n * in_image + (y * stride + ky + border) * in_row + border * c_in) * LANES + lane;
                const float* gs = gz + (n * out_image + (y + 1) * out_row + c_out) * LANES + lane;
#pragma unroll 2
                for (int column = 0; column < side; ++column, xs += stride * c_in * LANES, gs += c_out * LANES) {
                    float grad[CO];
#pragma unroll
                    for (int o = 0; o < CO; ++o) grad[o] = gs[channel[o]];
#pragma unroll
                    for (int k = 0; k < K; ++k)
#pragma unroll
                        for (int j = 0; j < CI; ++j) {
                            const float value = xs[k * c_in * LANES + input[j]];
#pragma unroll
                            for (int o = 0; o < CO; ++o) acc[k][j][o] += value * grad[o];
                        }
                }
            }
        float* to = partial + (part * weights + ky * kernel * tap) * LANES + lane;
#pragma unroll
        for (int k = 0; k < K; ++k)
#pragma unroll
            for (int j = 0; j < CI; ++j)
#pragma unroll
                for (int o = 0; o < CO; ++o)
                    if (i + j < c_in && first + o < c_out) to[(k * tap + (i + j) * c_out + first + o) * LANES] = acc[k][j][o];
    });
    each(net.stream, weights, [=] HD(int unit, int lane) {
        float sum = 0;
#pragma unroll 8
        for (int part = 0; part < parts; ++part) sum += partial[(part * weights + unit) * LANES + lane];
        grads[unit * LANES + lane] = sum;
    });
}

inline void backward(Net& net, int images) {
    const int width = net.width, classes = net.classes, area = net.side * net.side;
    const float *fc = net.params + net.fc * LANES, *g_logits = net.logits, *pooled = net.pooled;
    float *g_fc = net.grads + net.fc * LANES, *g = net.grad;
    each(net.stream, (width + 1) * classes, [=] HD(int unit, int lane) {  // the last row is the bias
        const int c = unit / classes, k = unit % classes;
        float sum = 0;
        for (int n = 0; n < images; ++n)
            sum += (c < width ? pooled[(n * width + c) * LANES + lane] : 1) * g_logits[(n * classes + k) * LANES + lane];
        g_fc[unit * LANES + lane] = sum;
    });
    each(net.stream, images * width, [=] HD(int unit, int lane) {
        const int n = unit / width, c = unit % width;
        float value = 0;
        for (int k = 0; k < classes; ++k) value += fc[(c * classes + k) * LANES + lane] * g_logits[(n * classes + k) * LANES + lane];
        for (int p = 0; p < area; ++p) g[((n * area + p) * width + c) * LANES + lane] = value / area;
    });
    // Sets (or adds to) the gradient gx of the input x from that of the output, which a ReLU may have left (then its values).
    const auto through = [&](const Conv& conv, const float* x, float* g_out, const float* out, float* gx, bool add) {
        backward_norm(net, conv, g_out, out, images);
        conv.kernel == 3 ? backward_weight<3>(net, conv, x, images) : backward_weight<1>(net, conv, x, images);
        if (gx) backward_input(net, conv, gx, images, add);
    };
    float *grad = net.grad, *larger = net.grad_larger;
    for (int index = int(net.blocks.size()) - 1; index >= 0; --index) {
        const Block& block = net.blocks[index];
        const float* x = index ? net.blocks[index - 1].out : net.stem_out;
        through(block.second, block.inside, grad, block.out, net.grad_inside, false);
        if (block.has_shortcut) {
            through(block.first, x, net.grad_inside, block.inside, larger, false);
            through(block.shortcut, x, grad, nullptr, larger, true);
            std::swap(larger, grad);
        } else  // added to the identity's part
            through(block.first, x, net.grad_inside, block.inside, grad, true);
    }
    through(net.stem, net.images, grad, net.stem_out, nullptr, false);
}

// The images and labels of the step that net.step counts.
inline void put(Net& net, const Images& data, const Plan& plan, int images) {
    const int side = net.stem.side_in, batch = net.batch, row = net.stem.in_row(), image = net.stem.in_image();
    const int32_t* step = net.step;
    float* to = net.images;
    int32_t* labels = net.labels;
    each(net.stream, images * side * side, [=] HD(int unit, int lane) {
        const int x = unit % side, y = unit / side % side, n = unit / side / side;
        const long which = (long(*step) * plan.lanes + (plan.lanes == 1 ? 0 : lane)) * batch + n;
        const int chosen = plan.chosen[which];
        const uint8_t* moves = plan.moves ? plan.moves + 3 * which : nullptr;
        const int top = moves ? moves[0] : 0, left = moves ? moves[1] : 0, flip = moves ? moves[2] : 0;
        const uint8_t* pixel = data.pixels + ((long(chosen) * data.wide + y + top) * data.wide + left + (flip ? side - 1 - x : x)) * 3;
        for (int c = 0; c < 3; ++c)
            to[(n * image + (y + 1) * row + (x + 1) * 3 + c) * LANES + lane] = pixel[c] * data.scale[c] + data.shift[c];
        if (x == 0 && y == 0) labels[n * LANES + lane] = data.labels[chosen];
    });
}

inline void update(Net& net, const Plan& plan, float momentum, float decay) {
    float *params = net.params, *momenta = net.momenta;
    const float* grads = net.grads;
    int32_t* step = net.step;
    each(net.stream, net.parameters, [=] HD(int unit, int lane) {
        const int at = unit * LANES + lane;
        momenta[at] = momenta[at] * momentum + grads[at] + params[at] * decay;
        params[at] -= momenta[at] * plan.rates[*step];
    });
    each(net.stream, 1, [=] HD(int, int lane) {
        if (lane == 0) ++*step;
    });
}

std::mutex recording;  // one thread at a time makes a network or records a graph

extern "C" {

// spec: side of the images, batch, classes, stem width, number of blocks, then (c_in, c_mid, c_out, stride) of each block.
// params and statistics: first values, as lanes_array of lanes.cpp has them. Null if the network is so large that places of its values
// do not fit into an int.
Net* gpu_create(const int32_t* spec, const float* params, const float* statistics) {
    std::lock_guard<std::mutex> alone(recording);
    Net* net = new Net{};
    int side = spec[0];
    net->batch = spec[1], net->classes = spec[2], net->width = spec[3];
    int features = 0, padded = 0, most_partial = 0, widest = 0;
    const auto want = [&](float*& pointer, size_t lane_vectors) { net->wanted.push_back({&pointer, lane_vectors * LANES}); };
    const auto conv = [&](Conv& made, int c_in, int c_out, int kernel, int stride, int side_in) {
        made.c_in = c_in, made.c_out = c_out, made.kernel = kernel, made.stride = stride, made.side_in = side_in, made.side = side_in / stride;
        made.weight = net->parameters, made.affine = made.weight + made.weights(), made.running = net->statistics_count;
        net->parameters += made.weights() + 2 * c_out, net->statistics_count += 2 * c_out;
        want(made.z, size_t(net->batch) * made.out_image());
        for (float** one : {&made.mean, &made.inverse, &made.scale, &made.shift}) want(*one, c_out);
        features = std::max({features, made.out_image(), side_in * side_in * c_in});
        padded = std::max(padded, made.padded_image()), widest = std::max(widest, c_out);
        const int together = made.side < 16 ? 16 / made.side : 1;
        most_partial = std::max({most_partial, (net->batch + together - 1) / together * made.weights(), 2 * net->batch * made.side * c_out});
    };
    net->blocks.resize(spec[4]);
    conv(net->stem, 3, net->width, 3, 1, side);
    want(net->images, size_t(net->batch) * net->stem.in_image());
    want(net->stem_out, size_t(net->batch) * net->stem.padded_image());
    for (int i = 0; i < spec[4]; ++i) {
        const int32_t* shape = spec + 5 + 4 * i;
        Block& block = net->blocks[i];
        block.has_shortcut = shape[3] > 1;
        const int side_in = side;
        conv(block.first, shape[0], shape[1], 3, shape[3], side_in);
        side /= shape[3];
        conv(block.second, shape[1], shape[2], 3, 1, side);
        if (block.has_shortcut) conv(block.shortcut, shape[0], shape[2], 1, shape[3], side_in);
        want(block.inside, size_t(net->batch) * block.first.padded_image());
        want(block.out, size_t(net->batch) * block.second.padded_image());
        net->width = shape[2];
    }
    net->side = side, net->fc = net->parameters;
    net->parameters += (net->width + 1) * net->classes;
    for (float** one : {&net->params, &net->grads, &net->momenta}) want(*one, net->parameters);
    want(net->statistics, net->statistics_count), want(net->gz, size_t(net->batch) * padded);
    for (float** one : {&net->grad, &net->grad_inside, &net->grad_larger}) want(*one, size_t(net->batch) * features);
    want(net->partial, most_partial), want(net->pooled, size_t(net->batch) * net->width);
    want(net->logits, size_t(net->batch) * net->classes), want(net->image_loss, net->batch);
    for (float** one : {&net->a, &net->b, &net->d}) want(*one, widest);
    float *labels, *image_right, *right, *step, *loss;
    want(labels, net->batch), want(image_right, net->batch), want(right, 1), want(step, 1), want(loss, 2);
    size_t total = 0, largest = 0;
    for (const auto& [pointer, floats] : net->wanted) total += floats, largest = std::max(largest, floats);
    if (largest > INT32_MAX) {
        delete net;
        return nullptr;
    }
#ifdef __CUDACC__
    check(cudaStreamCreateWithFlags(&net->stream, cudaStreamNonBlocking), "a stream");
#endif
    net->arena = reserve(total * sizeof(float), net->stream);
    float* next = static_cast<float*>(net->arena);
    for (const auto& [pointer, floats] : net->wanted) *pointer = next, next += floats;
    net->labels = reinterpret_cast<int32_t*>(labels), net->image_right = reinterpret_cast<int32_t*>(image_right);
    net->right = reinterpret_cast<int32_t*>(right), net->step = reinterpret_cast<int32_t*>(step), net->loss = reinterpret_cast<double*>(loss);
    copy(net->params, params, sizeof(float) * LANES * net->parameters, net->stream);
    copy(net->statistics, statistics, sizeof(float) * LANES * net->statistics_count, net->stream);
    return net;
}

void gpu_destroy(Net* net) {
    release(net->arena, net->stream);
#ifdef __CUDACC__
    check(cudaStreamSynchronize(net->stream), "the end");
    check(cudaStreamDestroy(net->stream), "the end");
#endif
    delete net;
}

// Copies parameters (0), gradients (1) or running statistics (2) to the host: [count][16] floats.
void gpu_fetch(Net* net, int which, float* to) {
    const float* from = which == 0 ? net->params : which == 1 ? net->grads : net->statistics;
    copy(to, from, sizeof(float) * LANES * (which == 2 ? net->statistics_count : net->parameters), net->stream);
}

// Puts an array where networks can read it, to be kept until the end of the process.
const void* gpu_keep(const void* data, int64_t bytes) {
    void* kept = reserve(bytes, 0);
    copy(kept, data, bytes, 0);
    return kept;
}

// Trains a network for some steps, the first of which is number 0 of the plan. loss and right: sums over the last step's images, [16].
void gpu_train(Net* net, const Images* data, const Plan* plan, int steps, float momentum, float decay, float keep, double* loss, int32_t* right) {
    const int32_t start = 0;
    copy(net->step, &start, sizeof start, net->stream);
    const auto one = [&] {
        put(*net, *data, *plan, net->batch);
        forward(*net, net->batch, true, keep);
        cross_entropy(*net, net->batch, false);
        backward(*net, net->batch);
        update(*net, *plan, momentum, decay);
    };
#ifdef __CUDACC__
    cudaGraph_t graph;
    cudaGraphExec_t ready;
    std::unique_lock<std::mutex> alone(recording);
    check(cudaStreamBeginCapture(net->stream, cudaStreamCaptureModeThreadLocal), "a graph");
    one();
    check(cudaStreamEndCapture(net->stream, &graph), "a graph");
    check(cudaGraphInstantiate(&ready, graph, 0), "a graph");
    check(cudaGraphUpload(ready, net->stream), "a graph");
    alone.unlock();
    for (int step = 0; step < steps; ++step) {
        check(cudaGraphLaunch(ready, net->stream), "a step");
        if (step % 64 == 63) check(cudaStreamSynchronize(net->stream), "a step");
    }
    check(cudaStreamSynchronize(net->stream), "training");
    check(cudaGraphExecDestroy(ready), "a graph");
    check(cudaGraphDestroy(graph), "a graph");
#else
    for (int step = 0; step < steps; ++step) one();
#endif
    copy(loss, net->loss, sizeof(double) * LANES, net->stream);
    copy(right, net->right, sizeof(int32_t) * LANES, net->stream);
}

// Evaluation with running statistics on all images of a plan of one lane; the last step may be shorter. Sums over all images.
void gpu_evaluate(Net* net, const Images* data, const Plan* plan, int images, double* loss, int32_t* right) {
    memset(loss, 0, sizeof(double) * LANES), memset(right, 0, sizeof(int32_t) * LANES);
    copy(net->loss, loss, sizeof(double) * LANES, net->stream);
    copy(net->right, right, sizeof(int32_t) * LANES, net->stream);
    for (int32_t step = 0; step * net->batch < images; ++step) {
        const int count = std::min(net->batch, images - step * net->batch);
        copy(net->step, &step, sizeof step, net->stream);
        put(*net, *data, *plan, count);
        forward(*net, count, false, 0);
        cross_entropy(*net, count, true);
    }
    copy(loss, net->loss, sizeof(double) * LANES, net->stream);
    copy(right, net->right, sizeof(int32_t) * LANES, net->stream);
}
}
