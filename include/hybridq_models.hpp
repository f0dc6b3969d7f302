/* libhybridq for C++17: models and their training. Included by hybridq.hpp, which says what holds for all of it. */

#ifndef HYBRIDQ_MODELS_HPP
#define HYBRIDQ_MODELS_HPP

#include "hybridq.hpp"

namespace hybridq {

// Tokens for a model (hq_batch); what they lie in must live as long.
class batch {
public:
    batch(std::size_t sequences, span<const std::uint32_t> tokens) : value_(make<hq_batch>()) {
        value_.sequences = sequences;
        value_.tokens = tokens.data();
        value_.tokens_len = tokens.size();
    }
    batch &targets(span<const std::uint32_t> targets) {
        value_.targets = targets.data();
        value_.targets_len = targets.size();
        return *this;
    }
    batch &values(span<const float> values) {
        value_.values = values.data();
        value_.values_len = values.size();
        return *this;
    }
    // One for each token.
    batch &token_types(span<const std::uint32_t> types) {
        detail::expect(types.size(), value_.tokens_len, "token_types");
        value_.token_types = types.data();
        return *this;
    }
    // One for each sequence.
    batch &lengths(span<const std::uint32_t> lengths) {
        detail::expect(lengths.size(), value_.sequences, "lengths");
        value_.lengths = lengths.data();
        return *this;
    }
    batch &source(span<const std::uint32_t> source) {
        value_.source = source.data();
        value_.source_len = source.size();
        return *this;
    }
    const hq_batch *get() const noexcept { return &value_; }
    std::size_t sequences() const noexcept { return value_.sequences; }
    std::size_t length() const noexcept { return value_.sequences == 0 ? 0 : value_.tokens_len / value_.sequences; }

private:
    hq_batch value_;
};

class decoder;

class model : public detail::owner<hq_model, hq_model_free> {
public:
    // Gets the attention weights of a layer, sequences x heads x queries x keys; false ends the call.
    using attention_function = std::function<bool(std::size_t layer, std::size_t heads, std::size_t queries,
                                                  std::size_t keys, const float *weights)>;

    // A fresh model: a preset's name, or the JSON of a config.json.
    static model create(const context &context, const std::string &description, std::uint64_t seed) {
        model made;
        hq_model *handle = nullptr;
        check(hq_model_new(context.get(), description.c_str(), seed, &handle));
        made.adopt(handle);
        return made;
    }
    static model load(const context &context, const std::string &path) {
        model made;
        hq_model *handle = nullptr;
        check(hq_model_load(context.get(), path.c_str(), &handle));
        made.adopt(handle);
        return made;
    }
    // The same weights below another head (an HQ_HEAD_ constant), whose own are drawn from `seed`.
    model with_head(const context &context, std::uint32_t head, const std::vector<std::string> &labels,
                    std::uint64_t seed) const {
        std::vector<const char *> names;
        for (const std::string &label : labels) names.push_back(label.c_str());
        model made;
        hq_model *handle = nullptr;
        check(hq_model_with_head(get(), context.get(), head, names.data(), names.size(), seed, &handle));
        made.adopt(handle);
        return made;
    }
    void save(const std::string &folder) const { check(hq_model_save(get(), folder.c_str())); }
    hq_model_info info() const {
        auto info = make<hq_model_info>();
        check(hq_model_get_info(get(), &info));
        return info;
    }
    std::string config() const {
        return detail::text([this](char *buffer, std::size_t capacity, std::size_t *length) {
            return hq_model_config(get(), buffer, capacity, length);
        });
    }
    std::string label(std::size_t index) const {
        return detail::text([&](char *buffer, std::size_t capacity, std::size_t *length) {
            return hq_model_label(get(), index, buffer, capacity, length);
        });
    }
    double loss(const context &context, const batch &batch) {
        double loss = 0.0;
        check(hq_model_loss(get(), context.get(), batch.get(), &loss));
        return loss;
    }
    // Adds gradients to the parameters; a recurrent model goes on from `state`.
    double step(const context &context, const batch &batch, const hq_step_options &options, decoder *state = nullptr);
    parameters shared_parameters() {
        hq_parameters *handle = nullptr;
        check(hq_model_parameters(get(), &handle));
        return parameters(handle);
    }
    std::vector<float> predict(const context &context, const batch &batch) {
        std::size_t count = 0;
        check(hq_model_output_count(get(), batch.sequences(), batch.length(), &count));
        std::vector<float> outputs(count);
        check(hq_model_predict(get(), context.get(), batch.get(), outputs.data(), count));
        return outputs;
    }
    void attention(const context &context, const batch &batch, attention_function layers) {
        detail::guarded<attention_function> guard{std::move(layers), nullptr};
        guard.finish(hq_model_attention(get(), context.get(), batch.get(), shown, &guard));
    }
    // The target an encoder-decoder writes for a source.
    std::vector<std::uint32_t> translate(const context &context, span<const std::uint32_t> source,
                                         const hq_beam_options &options = make<hq_beam_options>()) {
        std::vector<std::uint32_t> tokens(options.tokens > 0 ? options.tokens : 128);
        std::size_t count = 0;
        check(hq_model_translate(get(), context.get(), source.data(), source.size(), &options, tokens.data(),
                                 tokens.size(), &count, nullptr));
        tokens.resize(count);
        return tokens;
    }
    std::vector<std::uint32_t> encode(const std::string &text) const {
        std::size_t count = 0;
        check(hq_model_encode(get(), text.c_str(), nullptr, 0, &count));
        std::vector<std::uint32_t> tokens(count);
        if (count > 0) check(hq_model_encode(get(), text.c_str(), tokens.data(), count, &count));
        return tokens;
    }
    void generate(const context &context, const std::string &prompt, const hq_generate_options &options,
                  const text_function &pieces) {
        detail::with_pieces(pieces, [&](hq_text_callback callback, void *user) {
            return hq_model_generate(get(), context.get(), prompt.c_str(), &options, callback, user);
        });
    }

private:
    model() = default;
    static std::int32_t shown(std::size_t layer, std::size_t heads, std::size_t queries, std::size_t keys,
                              const float *weights, void *user) {
        auto *guard = static_cast<detail::guarded<attention_function> *>(user);
        try {
            return guard->function(layer, heads, queries, keys, weights) ? 0 : 1;
        } catch (...) {
            guard->thrown = std::current_exception();
            return 1;
        }
    }
};

// What a model remembers of the tokens it has read.
class decoder : public detail::owner<hq_decoder, hq_decoder_free> {
public:
    decoder(const model &model, std::size_t sequences, std::size_t capacity) : sequences_(sequences) {
        hq_decoder *handle = nullptr;
        check(hq_decoder_new(model.get(), sequences, capacity, &handle));
        adopt(handle);
    }
    // The logits of each text's last token, sequences x vocabulary.
    std::vector<float> read(model &model, const context &context, span<const std::uint32_t> tokens) {
        if (tokens.size() % sequences_ != 0) throw error(HQ_SHAPE, "tokens: expected as many for each text");
        std::vector<float> logits(detail::area(sequences_, model.info().vocabulary));
        check(hq_decoder_read(get(), model.get(), context.get(), tokens.data(), tokens.size() / sequences_,
                              logits.data(), logits.size()));
        return logits;
    }
    // What an encoder-decoder's encoder reads, as many ids for each text.
    void set_source(const model &model, span<const std::uint32_t> source) {
        check(hq_decoder_set_source(get(), model.get(), source.data(), source.size(), nullptr));
    }
    void truncate(std::size_t length) { check(hq_decoder_truncate(get(), length)); }

private:
    std::size_t sequences_;
};

inline double model::step(const context &context, const batch &batch, const hq_step_options &options, decoder *state) {
    double loss = 0.0;
    check(hq_model_step(get(), context.get(), batch.get(), state ? state->get() : nullptr, &options, &loss));
    return loss;
}

class trainer : public detail::owner<hq_trainer, hq_trainer_free> {
public:
    // Gets what the trainer did; false cancels the run.
    using progress_function = std::function<bool(const hq_progress &)>;

    // Fills a batch.
    using batch_function = std::function<void(const hq_batch_buffers &)>;

    trainer(const context &context, const std::string &config_json) {
        hq_trainer *handle = nullptr;
        check(hq_trainer_new(context.get(), config_json.c_str(), &handle));
        adopt(handle);
    }
    // On batches of the caller's; of `source`, `read` and `user_data` are set here.
    trainer(const context &context, const std::string &config_json, hq_batch_source source, batch_function read) {
        batches_ = std::make_unique<detail::guarded<batch_function>>();
        batches_->function = std::move(read);
        source.read = filled;
        source.user_data = batches_.get();
        hq_trainer *handle = nullptr;
        finish(hq_trainer_new_with_batches(context.get(), config_json.c_str(), &source, &handle));
        adopt(handle);
    }
    void on_progress(progress_function function) {
        progress_ = std::make_unique<detail::guarded<progress_function>>();
        progress_->function = std::move(function);
        check(hq_trainer_on_progress(get(), told, progress_.get()));
    }
    hq_step_report step() {
        auto report = make<hq_step_report>();
        finish(hq_trainer_step(get(), &report));
        return report;
    }
    hq_run_summary run() {
        auto summary = make<hq_run_summary>();
        finish(hq_trainer_run(get(), &summary));
        return summary;
    }
    // Any thread may call it at any time.
    void cancel() const { check(hq_trainer_cancel(get())); }
    double evaluate() {
        double loss = 0.0;
        finish(hq_trainer_evaluate(get(), &loss));
        return loss;
    }
    void save(const std::string &path) const { check(hq_trainer_save(get(), path.c_str())); }
    void load(const std::string &path) { check(hq_trainer_load(get(), path.c_str())); }
    void save_model(const std::string &folder) const { check(hq_trainer_save_model(get(), folder.c_str())); }
    void generate(const std::string &prompt, const hq_generate_options &options, const text_function &pieces) {
        detail::with_pieces(pieces, [&](hq_text_callback callback, void *user) {
            return hq_trainer_generate(get(), prompt.c_str(), &options, callback, user);
        });
    }

private:
    static std::int32_t told(const hq_progress *progress, void *user) {
        auto *guard = static_cast<detail::guarded<progress_function> *>(user);
        try {
            return guard->function(*progress) ? 0 : 1;
        } catch (...) {
            guard->thrown = std::current_exception();
            return 1;
        }
    }
    static std::int32_t filled(const hq_batch_buffers *batch, void *user) {
        auto *guard = static_cast<detail::guarded<batch_function> *>(user);
        try {
            guard->function(*batch);
            return 0;
        } catch (...) {
            guard->thrown = std::current_exception();
            return 1;
        }
    }
    void finish(hq_status status) {
        if (progress_ && progress_->thrown) progress_->finish(status);
        if (batches_ && batches_->thrown) batches_->finish(status);
        check(status);
    }

    std::unique_ptr<detail::guarded<progress_function>> progress_;
    std::unique_ptr<detail::guarded<batch_function>> batches_;
};

}  // namespace hybridq

#endif  // HYBRIDQ_MODELS_HPP
