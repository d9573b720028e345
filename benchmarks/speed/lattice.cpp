// Permutohedral lattice after Adams, Baek & Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice"
// (Eurographics 2010): approximates out_i = sum_j exp(-|f_i - f_j|^2 / 2) values_j, the pair i = j included.
// Values are kept channel by channel within a vertex, so that the inner loops run over channels.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int D = 5;  // colour and place

struct Key {
    int16_t at[D];
    bool operator==(const Key& other) const { return std::memcmp(at, other.at, sizeof at) == 0; }
};

class Table {
   public:
    explicit Table(size_t expected) {
        size_t size = 64;
        while (size < 2 * expected) size *= 2;
        slots_.assign(size, -1);
    }

    int find(const Key& key, bool create) {
        size_t slot = hash(key) & (slots_.size() - 1);
        while (slots_[slot] >= 0) {
            if (keys[slots_[slot]] == key) return slots_[slot];
            slot = (slot + 1) & (slots_.size() - 1);
        }
        if (!create) return -1;
        if (2 * (keys.size() + 1) > slots_.size()) {
            grow();
            return find(key, true);
        }
        keys.push_back(key);
        return slots_[slot] = static_cast<int>(keys.size()) - 1;
    }

    std::vector<Key> keys;

   private:
    static size_t hash(const Key& key) {
        uint64_t h = 0;
        for (int i = 0; i < D; ++i) h = (h + static_cast<uint16_t>(key.at[i])) * 0x9E3779B97F4A7C15ull;
        return h >> 17;
    }

    void grow() {
        std::vector<int> larger(2 * slots_.size(), -1);
        for (size_t i = 0; i < keys.size(); ++i) {
            size_t slot = hash(keys[i]) & (larger.size() - 1);
            while (larger[slot] >= 0) slot = (slot + 1) & (larger.size() - 1);
            larger[slot] = static_cast<int>(i);
        }
        slots_.swap(larger);
    }

    std::vector<int> slots_;
};

struct Lattice {
    int points;
    std::vector<int> vertex;     // [points][D + 1]
    std::vector<float> share;    // [points][D + 1], barycentric
    std::vector<int> neighbour;  // [D + 1][vertices][2], -1 where there is none
    int vertices;
};

}  // namespace

extern "C" {

void* lattice_build(const float* features, int points) {
    auto* lattice = new Lattice{points, {}, {}, {}, 0};
    lattice->vertex.resize(static_cast<size_t>(points) * (D + 1));
    lattice->share.resize(static_cast<size_t>(points) * (D + 1));
    float scale[D];
    for (int i = 0; i < D; ++i)
        scale[i] = std::sqrt(2.0f / 3.0f) * (D + 1) / std::sqrt(static_cast<float>((i + 1) * (i + 2)));
    Table table(static_cast<size_t>(points) * 2);
    for (int p = 0; p < points; ++p) {
        const float* f = features + static_cast<size_t>(p) * D;
        float elevated[D + 1], sum = 0;
        for (int j = D; j > 0; --j) {
            float coordinate = f[j - 1] * scale[j - 1];
            elevated[j] = sum - j * coordinate;
            sum += coordinate;
        }
        elevated[0] = sum;
        int nearest[D + 1], rank[D + 1] = {0}, total = 0;
        for (int i = 0; i <= D; ++i) {
            int multiple = static_cast<int>(std::lround(elevated[i] / (D + 1)));
            nearest[i] = multiple * (D + 1);
            total += multiple;
        }
        for (int i = 0; i < D; ++i)
            for (int j = i + 1; j <= D; ++j)
                ++rank[elevated[i] - nearest[i] < elevated[j] - nearest[j] ? i : j];
        for (int i = 0; i <= D; ++i) {  // back onto the plane of sum zero
            rank[i] += total;
            if (rank[i] < 0) {
                rank[i] += D + 1;
                nearest[i] += D + 1;
            } else if (rank[i] > D) {
                rank[i] -= D + 1;
                nearest[i] -= D + 1;
            }
        }
        float barycentric[D + 2] = {0};
        for (int i = 0; i <= D; ++i) {
            float v = (elevated[i] - nearest[i]) / (D + 1);
            barycentric[D - rank[i]] += v;
            barycentric[D + 1 - rank[i]] -= v;
        }
        barycentric[0] += 1.0f + barycentric[D + 1];
        for (int remainder = 0; remainder <= D; ++remainder) {
            Key key;
            for (int i = 0; i < D; ++i)
                key.at[i] = static_cast<int16_t>(
                    nearest[i] + (rank[i] <= D - remainder ? remainder : remainder - (D + 1)));
            size_t place = static_cast<size_t>(p) * (D + 1) + remainder;
            lattice->vertex[place] = table.find(key, true);
            lattice->share[place] = barycentric[remainder];
        }
    }
    int vertices = lattice->vertices = static_cast<int>(table.keys.size());
    lattice->neighbour.resize(static_cast<size_t>(D + 1) * vertices * 2);
    for (int axis = 0; axis <= D; ++axis)
        for (int v = 0; v < vertices; ++v) {
            Key below = table.keys[v], above = table.keys[v];
            for (int i = 0; i < D; ++i) {
                below.at[i] = static_cast<int16_t>(below.at[i] - 1);
                above.at[i] = static_cast<int16_t>(above.at[i] + 1);
            }
            if (axis < D) {
                below.at[axis] = static_cast<int16_t>(table.keys[v].at[axis] + D);
                above.at[axis] = static_cast<int16_t>(table.keys[v].at[axis] - D);
            }
            int* found = &lattice->neighbour[(static_cast<size_t>(axis) * vertices + v) * 2];
            found[0] = table.find(below, false);
            found[1] = table.find(above, false);
        }
    return lattice;
}

// values and out: [points][channels]
void lattice_filter(const void* handle, const float* values, int channels, float* out) {
    const auto* lattice = static_cast<const Lattice*>(handle);
    const int n = lattice->vertices;
    // one vertex more, of zeros, stands for neighbours that are not there
    std::vector<float> old(static_cast<size_t>(n + 1) * channels, 0.0f), blurred(old.size(), 0.0f);
    for (int p = 0; p < lattice->points; ++p)
        for (int r = 0; r <= D; ++r) {
            size_t place = static_cast<size_t>(p) * (D + 1) + r;
            float* target = &old[static_cast<size_t>(lattice->vertex[place]) * channels];
            for (int c = 0; c < channels; ++c)
                target[c] += lattice->share[place] * values[static_cast<size_t>(p) * channels + c];
        }
    for (int axis = 0; axis <= D; ++axis) {
        for (int v = 0; v < n; ++v) {
            const int* found = &lattice->neighbour[(static_cast<size_t>(axis) * n + v) * 2];
            const float* one = &old[static_cast<size_t>(found[0] < 0 ? n : found[0]) * channels];
            const float* two = &old[static_cast<size_t>(found[1] < 0 ? n : found[1]) * channels];
            const float* own = &old[static_cast<size_t>(v) * channels];
            float* target = &blurred[static_cast<size_t>(v) * channels];
            for (int c = 0; c < channels; ++c) target[c] = own[c] + 0.5f * (one[c] + two[c]);
        }
        old.swap(blurred);
    }
    const float alpha = 1.0f / (1.0f + std::pow(2.0f, -D));
    for (int p = 0; p < lattice->points; ++p) {
        float* target = out + static_cast<size_t>(p) * channels;
        std::fill(target, target + channels, 0.0f);
        for (int r = 0; r <= D; ++r) {
            size_t place = static_cast<size_t>(p) * (D + 1) + r;
            const float* from = &old[static_cast<size_t>(lattice->vertex[place]) * channels];
            for (int c = 0; c < channels; ++c) target[c] += alpha * lattice->share[place] * from[c];
        }
    }
}

int lattice_vertices(const void* handle) { return static_cast<const Lattice*>(handle)->vertices; }

void lattice_free(void* handle) { delete static_cast<Lattice*>(handle); }

}  // extern "C"
