/* libhybridq for C++17: hybridq.h with owners, spans and exceptions, and no behaviour of its own.
 *
 * Every object owns one handle, can be moved, not copied, and frees the handle in its destructor; get() gives the handle
 * for the functions of hybridq.h that have no method here. Failures are hybridq::error with the status. Exceptions thrown
 * by callbacks stop the call and come out of it unchanged. Sizes are checked against each other by the library or here. */

#ifndef HYBRIDQ_HPP
#define HYBRIDQ_HPP

#include "hybridq.h"

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace hybridq {

// A failed call: its message and status.
class error : public std::runtime_error {
public:
    error(hq_status status, const std::string &message) : std::runtime_error(message), status_(status) {}
    hq_status status() const noexcept { return status_; }

private:
    hq_status status_;
};

inline void check(hq_status status) {
    if (status != HQ_OK) throw error(status, hq_last_error());
}

// Elements of the caller's: what std::span is in C++20.
template <class T>
class span {
public:
    constexpr span() noexcept = default;
    constexpr span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    template <std::size_t N>
    constexpr span(T (&array)[N]) noexcept : data_(array), size_(N) {}
    // Anything with data() and size(): vectors, arrays, strings, other spans.
    template <class C, class = std::enable_if_t<std::is_convertible_v<decltype(std::declval<C &>().data()), T *>>>
    constexpr span(C &&container) noexcept : data_(container.data()), size_(container.size()) {}

    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T &operator[](std::size_t index) const { return data_[index]; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

namespace detail {

template <class Handle, void (*Free)(Handle *)>
class owner {
public:
    Handle *get() const noexcept { return handle_.get(); }

protected:
    owner() = default;
    void adopt(Handle *handle) noexcept { handle_.reset(handle); }

private:
    struct deleter {
        void operator()(Handle *handle) const noexcept { Free(handle); }
    };
    std::unique_ptr<Handle, deleter> handle_;
};

inline void expect(std::size_t found, std::size_t expected, const char *name) {
    if (found == expected) return;
    throw error(HQ_SHAPE, std::string(name) + ": expected " + std::to_string(expected) + " elements, found " +
                              std::to_string(found));
}

// Elements of a rows x cols matrix; sizes that overflow are left to the library, which refuses them.
inline std::size_t area(std::size_t rows, std::size_t cols) {
    if (cols != 0 && rows > SIZE_MAX / cols) throw error(HQ_SHAPE, "rows x cols: exceeds the address space");
    return rows * cols;
}

template <class Struct>
Struct sized() {
    Struct value = {};
    value.struct_size = sizeof value;
    return value;
}

// Asks for a text's length, then for the text.
template <class Call>
std::string text(Call call) {
    std::size_t length = 0;
    check(call(nullptr, 0, &length));
    std::string text(length + 1, '\0');
    check(call(&text[0], text.size(), &length));
    text.resize(length);
    return text;
}

// A callback of the caller's and the exception it threw.
template <class Function>
struct guarded {
    Function function;
    std::exception_ptr thrown;

    template <class... Arguments>
    std::int32_t call(Arguments... arguments) noexcept {
        try {
            return function(arguments...);
        } catch (...) {
            thrown = std::current_exception();
            return 1;
        }
    }

    // What a call that used the callback gave.
    void finish(hq_status status) {
        if (thrown) std::rethrow_exception(std::exchange(thrown, nullptr));
        check(status);
    }
};

inline std::int32_t give_piece(const char *piece, std::size_t bytes, void *user) {
    return static_cast<guarded<std::function<std::int32_t(const char *, std::size_t)>> *>(user)->call(piece, bytes);
}

using metrics_function = std::function<std::int32_t(const hq_backend_metrics *)>;

inline std::int32_t give_metrics(const hq_backend_metrics *metrics, void *user) {
    return static_cast<guarded<metrics_function> *>(user)->call(metrics);
}

}  // namespace detail

// Options start from zeros with their size set: `auto options = make<hq_context_options>();`.
template <class Struct>
Struct make() {
    return detail::sized<Struct>();
}

inline std::string version() { return hq_version(); }

// Gets each piece of text; false stops.
using text_function = std::function<bool(const std::string &)>;

namespace detail {

// Runs `call(callback, user_data)` with a text function behind it.
template <class Call>
void with_pieces(const text_function &pieces, Call call) {
    guarded<std::function<std::int32_t(const char *, std::size_t)>> guard{
        [&](const char *piece, std::size_t bytes) { return pieces(std::string(piece, bytes)) ? 0 : 1; }, nullptr};
    const hq_status status = call(give_piece, &guard);
    guard.finish(status);
}

}  // namespace detail

class context : public detail::owner<hq_context, hq_context_free> {
public:
    explicit context(const hq_context_options *options = nullptr) {
        if (hq_abi_version() != HYBRIDQ_ABI_VERSION) throw error(HQ_UNSUPPORTED, "libhybridq and hybridq.h differ");
        hq_context *handle = nullptr;
        check(hq_context_new(options, &handle));
        adopt(handle);
    }
    unsigned threads() const noexcept { return hq_context_threads(get()); }
    std::string isa() const { return hq_context_isa(get()); }

    // Where a call of `operation` with `work` runs.
    hq_backend choose(const std::string &operation, std::uint64_t work, std::uint64_t tokens = 1) const {
        auto backend = make<hq_backend>();
        check(hq_dispatch_choose(get(), operation.c_str(), work, tokens, &backend));
        return backend;
    }
    std::string thresholds() const {
        return detail::text([this](char *buffer, std::size_t capacity, std::size_t *length) {
            return hq_dispatch_thresholds(get(), buffer, capacity, length);
        });
    }
    // This context's threads under other thresholds (TOML).
    context configured(const std::string &toml) const {
        hq_context *handle = nullptr;
        check(hq_dispatch_configure(get(), toml.c_str(), &handle));
        return context(handle, adopted());
    }
    // The same with what the cache file keeps for this machine; "" is the usual file.
    context loaded(const std::string &path = "") const {
        hq_context *handle = nullptr;
        check(hq_dispatch_load(get(), path.empty() ? nullptr : path.c_str(), &handle));
        return context(handle, adopted());
    }
    // The same with what half a minute's timing learns, kept in `path` ("": the usual file). `progress` gets the name of each
    // operation; false stops, which is an error of HQ_CANCELLED.
    context calibrated(const std::string &path = "", const text_function &progress = nullptr) const {
        hq_context *handle = nullptr;
        const text_function tell = progress ? progress : [](const std::string &) { return true; };
        detail::with_pieces(tell, [&](hq_text_callback callback, void *user) {
            return hq_dispatch_calibrate(get(), path.empty() ? nullptr : path.c_str(), callback, user, &handle);
        });
        return context(handle, adopted());
    }
    void time_calls(bool on) const { check(hq_dispatch_metrics_enable(get(), on)); }
    void forget_calls() const { check(hq_dispatch_metrics_clear(get())); }
    std::vector<hq_backend_metrics> calls() const {
        std::vector<hq_backend_metrics> found;
        detail::guarded<detail::metrics_function> guard{
            [&](const hq_backend_metrics *one) { return found.push_back(*one), 0; }, nullptr};
        guard.finish(hq_dispatch_metrics(get(), detail::give_metrics, &guard));
        return found;
    }
    std::vector<std::string> advice() const {
        std::vector<std::string> lines;
        detail::with_pieces([&](const std::string &line) { return lines.push_back(line), true; },
                            [&](hq_text_callback callback, void *user) {
                                return hq_dispatch_advice(get(), callback, user);
                            });
        return lines;
    }

private:
    struct adopted {};
    context(hq_context *handle, adopted) { adopt(handle); }
};

// int8 rows with a scale and a sum each.
struct quantized_rows {
    std::vector<std::int8_t> values;
    std::vector<float> scales;
    std::vector<std::int32_t> sums;
    std::size_t rows = 0, cols = 0;
};

inline quantized_rows quantize_rows(const context &context, span<const float> x, std::size_t rows, std::size_t cols) {
    detail::expect(x.size(), detail::area(rows, cols), "x");
    quantized_rows out{std::vector<std::int8_t>(x.size()), std::vector<float>(rows), std::vector<std::int32_t>(rows), rows,
                       cols};
    check(hq_quantize_rows(context.get(), x.data(), rows, cols, out.values.data(), out.scales.data(), out.sums.data()));
    return out;
}

// A ternary matrix at 2 bits a weight.
class ternary_matrix {
public:
    ternary_matrix(const context &context, span<const float> weights, std::size_t rows, std::size_t cols,
                   std::uint32_t granularity = HQ_SCALE_PER_TENSOR)
        : rows_(rows), cols_(cols), scales_(granularity == HQ_SCALE_PER_ROW ? rows : 1) {
        detail::expect(weights.size(), detail::area(rows, cols), "weights");
        std::size_t bytes = 0;
        check(hq_ternary_packed_bytes(rows, cols, &bytes));
        packed_.resize(bytes);
        check(hq_ternary_pack(context.get(), weights.data(), rows, cols, granularity, packed_.data(), bytes,
                              scales_.data(), scales_.size()));
    }
    std::size_t rows() const noexcept { return rows_; }
    std::size_t cols() const noexcept { return cols_; }
    span<const std::uint8_t> packed() const noexcept { return packed_; }
    span<const float> scales() const noexcept { return scales_; }

    std::vector<std::int8_t> unpack(const context &context) const {
        std::vector<std::int8_t> trits(rows_ * cols_);
        check(hq_ternary_unpack(context.get(), packed_.data(), packed_.size(), rows_, cols_, trits.data()));
        return trits;
    }
    // y = x * W^T, `x.rows` x `rows()`.
    std::vector<float> multiply(const context &context, const quantized_rows &x) const {
        detail::expect(x.cols, cols_, "columns of x");
        std::vector<float> y(detail::area(x.rows, rows_));
        check(hq_ternary_matmul(context.get(), packed_.data(), packed_.size(), rows_, cols_, scales_.data(),
                                scales_.size(), x.values.data(), x.scales.data(), x.sums.data(), x.rows, y.data()));
        return y;
    }

private:
    std::size_t rows_, cols_;
    std::vector<std::uint8_t> packed_;
    std::vector<float> scales_;
};

inline double clip_norm(const context &context, span<float> x, double max_norm) {
    double norm = 0.0;
    check(hq_clip_norm(context.get(), x.data(), x.size(), max_norm, &norm));
    return norm;
}

class kmeans : public detail::owner<hq_kmeans, hq_kmeans_free> {
public:
    kmeans(const context &context, span<const float> points, std::size_t dim, std::size_t clusters,
           std::uint64_t seed = 0) {
        if (dim == 0 || points.size() % dim != 0) throw error(HQ_SHAPE, "points: expected a multiple of dim");
        auto options = make<hq_kmeans_options>();
        options.clusters = clusters;
        options.seed = seed;
        hq_kmeans *handle = nullptr;
        check(hq_kmeans_fit(context.get(), &options, points.data(), points.size() / dim, dim, &handle));
        adopt(handle);
    }
    hq_kmeans_info info() const {
        auto info = make<hq_kmeans_info>();
        check(hq_kmeans_get_info(get(), &info));
        return info;
    }
    std::vector<std::uint32_t> labels() const {
        std::vector<std::uint32_t> labels(info().points);
        check(hq_kmeans_labels(get(), labels.data(), labels.size()));
        return labels;
    }
    std::vector<float> centroids() const {
        std::vector<float> centroids(info().clusters * info().dim);
        check(hq_kmeans_centroids(get(), centroids.data(), centroids.size()));
        return centroids;
    }
    std::vector<std::uint32_t> predict(const context &context, span<const float> points) const {
        const std::size_t dim = info().dim;
        if (points.size() % dim != 0) throw error(HQ_SHAPE, "points: expected a multiple of dim");
        std::vector<std::uint32_t> labels(points.size() / dim);
        check(hq_kmeans_predict(get(), context.get(), points.data(), labels.size(), labels.data()));
        return labels;
    }
};

// What a parameter is, with its memory.
struct parameter {
    std::string name;
    std::vector<std::size_t> shape;
    std::uint32_t kind = HQ_PARAMETER_LINEAR;
    float initial_deviation = 0.0f;
    std::uint32_t precision = HQ_PRECISION_F32;
    float initial_value = 0.0f;
};

class parameters : public detail::owner<hq_parameters, hq_parameters_free> {
public:
    explicit parameters(const std::vector<parameter> &declared, std::uint64_t seed = 0) {
        std::vector<hq_parameter_spec> specs;
        for (const parameter &one : declared) {
            auto spec = make<hq_parameter_spec>();
            spec.kind = one.kind;
            spec.precision = one.precision;
            spec.dimensions = static_cast<std::uint32_t>(one.shape.size());
            spec.shape = one.shape.data();
            spec.name = one.name.c_str();
            spec.initial_deviation = one.initial_deviation;
            spec.initial_value = one.initial_value;
            specs.push_back(spec);
        }
        hq_parameters *handle = nullptr;
        check(hq_parameters_new(specs.data(), specs.size(), seed, &handle));
        adopt(handle);
    }
    // Owns a handle from elsewhere (model::shared_parameters).
    explicit parameters(hq_parameters *handle) noexcept { adopt(handle); }
    span<float> weights(std::size_t index) const {
        float *data = nullptr;
        std::size_t size = 0;
        check(hq_parameters_weights(get(), index, &data, &size));
        return {data, size};
    }
    span<float> gradients(std::size_t index) const {
        float *data = nullptr;
        std::size_t size = 0;
        check(hq_parameters_gradients(get(), index, &data, &size));
        return {data, size};
    }
    void zero_gradients() { check(hq_parameters_zero_gradients(get())); }
    void quantize(const context &context) { check(hq_parameters_quantize(get(), context.get(), nullptr)); }
};

class optimizer : public detail::owner<hq_optimizer, hq_optimizer_free> {
public:
    explicit optimizer(const parameters &parameters, const char *config_json = nullptr) {
        hq_optimizer *handle = nullptr;
        check(hq_optimizer_new(parameters.get(), config_json, &handle));
        adopt(handle);
    }
    hq_update_report step(const context &context, parameters &parameters, const hq_training_state &state) {
        auto report = make<hq_update_report>();
        check(hq_optimizer_step(get(), context.get(), parameters.get(), &state, &report));
        return report;
    }
    void observe_reduction(float reduction) { check(hq_optimizer_observe_reduction(get(), reduction)); }
};

}  // namespace hybridq

#include "hybridq_models.hpp"

#endif  // HYBRIDQ_HPP
